"""Kinds of run directory to report on, and a checker of the pages."""

import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import report_runs as runs

VOID = {"meta", "img", "br", "link", "hr", "wbr", "path", "rect", "line", "circle"}


class Page(HTMLParser):
    """A parsed page: raises on unbalanced tags, collects elements, attributes and text."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.source = source
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        if self.open:
            raise AssertionError(f"never closed: {self.open}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID or (tag == "path" and not self.get_starttag_text().endswith("/>")):  # type: ignore[union-attr]
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID and (not self.open or self.open[-1] != tag):
            return
        if not self.open or self.open.pop() != tag:
            raise AssertionError(f"unexpected </{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).replace("\u00a0", " ").split())

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _five_channels(path: Path) -> Path:
    runs.healthy(path)
    runs.gallery(path / "gallery.npz", channels=5)
    return path


def _many_rejected(path: Path) -> Path:
    runs.healthy(path)
    rows = [{"path": f"broken/{index:05d}.jpg", "reason": f"not an image: byte {index}"} for index in range(5000)]
    runs.jsonl(path / "rejected.jsonl", rows)
    return path


def _no_monitors(path: Path) -> Path:
    runs.healthy(path)
    runs.jsonl(path / "metrics.jsonl", [row for row in runs.metrics(monitors=0) if row["kind"] == "step"])
    return path


def _hostile(path: Path) -> Path:
    payload = runs.HOSTILE[0]
    runs.healthy(path)
    runs.gallery(path / "gallery.npz", names=runs.HOSTILE, classes=runs.HOSTILE, queries=9)
    runs.jsonl(path / "rejected.jsonl", [{"path": name, "reason": name} for name in runs.HOSTILE])
    runs.jsonl(path / "metrics.jsonl", [*runs.metrics(), {"kind": "event", "step": 5, "message": payload}])
    (path / "environment.json").write_text(json.dumps({name: name for name in runs.HOSTILE}))
    quoted = json.dumps(payload)
    (path / "recipe.toml").write_text(f"[data]\n{quoted} = {quoted}\n# </code></pre><script>alert(2)</script>\n")
    judged = runs.evaluation()
    judged["verdict"] = {"status": payload, "reasons": list(runs.HOSTILE), "advice": list(runs.HOSTILE)}
    judged["split"] = payload
    (path / "evaluation.json").write_text(json.dumps(judged))
    return path


MAKERS: dict[str, Callable[[Path], Path]] = {
    "healthy": runs.healthy,
    "unlabelled": lambda path: runs.healthy(path, labels=False),
    "collapsed": runs.collapsed,
    "aborted": runs.aborted,
    "five_channels": _five_channels,
    "many_rejected": _many_rejected,
    "no_monitors": _no_monitors,
    'hostile <b>"name': _hostile,
}
