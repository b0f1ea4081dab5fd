"""The page: whole, safe, within its size, with the figures of the run, in order."""

import itertools
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import report_runs as runs
from report_pages import MAKERS, Page

from siamscope import report

Read = Callable[[Path], Page]
ALLOWED = {
    "html",
    "head",
    "meta",
    "title",
    "link",
    "style",
    "body",
    "header",
    "nav",
    "main",
    "section",
    "aside",
    "footer",
}
ALLOWED |= {"h1", "h2", "h3", "p", "a", "ol", "ul", "li", "dl", "dt", "dd", "div", "span", "b", "bdi", "strong", "code"}
ALLOWED |= {"pre", "wbr", "figure", "figcaption", "table", "caption", "thead", "tbody", "tr", "th", "td", "details"}
ALLOWED |= {"summary", "img", "svg", "g", "path", "rect", "line", "circle", "text"}


@pytest.fixture(scope="module")
def pages(run_dirs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    out = tmp_path_factory.mktemp("pages")
    written = {
        name: report.write([path], out / f"{number}.html") for number, (name, path) in enumerate(run_dirs.items())
    }
    written["comparison"] = report.write(list(run_dirs.values()), out / "comparison.html")
    return {name: Page(path.read_text(encoding="utf-8")) for name, path in written.items()}


@pytest.mark.parametrize("name", [*MAKERS, "comparison"])
def test_page_is_safe_and_self_contained(pages: dict[str, Page], name: str) -> None:
    found = pages[name]
    assert len(found.source.encode()) < 3_000_000
    assert {tag for tag, _ in found.elements} <= ALLOWED
    for _, attributes in found.elements:
        assert not [key for key in attributes if key.startswith("on")]
    assert "http://" not in found.source and "https://" not in found.source
    assert all(str(image["src"]).startswith("data:image/png;base64,") for image in found.named("img"))
    assert all(str(link["href"]).startswith("#") for link in found.named("a"))
    assert [link["href"] for link in found.named("link")] == ["data:,"]
    assert "url(" not in found.source and "@import" not in found.source
    policy = next(meta["content"] for meta in found.named("meta") if "http-equiv" in meta)
    assert str(policy).startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")


@pytest.mark.parametrize("name", [*MAKERS, "comparison"])
def test_page_is_accessible(pages: dict[str, Page], name: str) -> None:
    found = pages[name]
    names = [tag for tag, _ in found.elements]
    assert names.count("main") == names.count("h1") == names.count("header") == names.count("nav") == 1
    assert all(image["alt"] for image in found.named("img"))
    for drawing in found.named("svg"):
        assert drawing.get("aria-hidden") == "true" or (drawing["role"] == "img" and drawing["aria-label"])
    identifiers = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {str(link["href"])[1:] for link in found.named("a")} <= set(identifiers)
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_sections_stand_in_order(pages: dict[str, Page]) -> None:
    order = [attributes["id"] for tag, attributes in pages["healthy"].elements if tag == "h2"]
    assert order == (
        ["verdict", "curves", "spectrum", "map", "neighbours", "views", "figures", "recipe", "environment", "rejected"]
    )


def test_hostile_names_are_shown_but_never_markup(pages: dict[str, Page]) -> None:
    found = pages['hostile <b>"name']
    assert "<script>alert(1)</script>.jpg" in found.text  # shown to the reader, as text
    assert '"><img src=x onerror=alert(1)>.png' in found.text
    for forbidden in ("<script", "<img src=x", "<svg onload", "</style></title>"):
        assert forbidden not in found.source
    assert "invoice⟨U+202E⟩gpj.exe" in found.text and "\u202e" not in found.source
    assert "lone⟨U+DCFF⟩surrogate.jpg" in found.text
    assert "\x00" not in found.source and "\x1b" not in found.source
    assert "مرحبا بالعالم.jpg" in found.text
    assert "a" * 401 not in found.source


def test_checker_finds_what_it_looks_for() -> None:
    """Negative control: the parser above does see injected markup and unbalanced tags."""
    found = Page('<p title="x"><script>alert(1)</script><img src=x onerror="a()"></p>')
    assert {"script", "img"} <= {tag for tag, _ in found.elements}
    assert "onerror" in found.named("img")[0]
    with pytest.raises(AssertionError):
        Page("<p><b></p>")


def test_figures_equal_the_inputs(pages: dict[str, Page]) -> None:
    text = pages["healthy"].text
    judged = runs.evaluation()
    for row in judged["knn"].values():
        assert all(f"{100 * value:.1f} %" in text for value in row.values())
    assert "k-NN, k = 20 62.3 % 28.2 % 21.0 %" in spaced(pages["healthy"])
    assert "[64.2, 70.1] %" in text and "96.3 %" in text
    assert f"+{62.34 - 28.17:.1f} points over the untrained encoder" in text
    assert f"+{62.34 - 21.03:.1f} points over raw pixels" in text
    assert "1,000 images judged" in text and "9,000 images in the bank" in text
    assert "68.0" in text and "of 128 dimensions" in text  # the last monitor's effective rank
    assert all(reason in text for reason in judged["verdict"]["reasons"] + judged["verdict"]["advice"])


def spaced(found: Page) -> str:
    return " ".join(" ".join(found.texts).replace("\u00a0", " ").split())


def test_figures_follow_other_inputs(tmp_path: Path, page: Read) -> None:
    """Negative control: another accuracy gives another page."""
    path = runs.healthy(tmp_path / "run")
    judged = runs.evaluation()
    judged["knn"]["trained"]["20"] = 0.4567
    (path / "evaluation.json").write_text(json.dumps(judged))
    text = page(report.write([path])).text
    assert "45.7 %" in text and "62.3 %" not in text and "+17.5 points" in text


def test_a_loss_against_the_baselines_is_said(pages: dict[str, Page]) -> None:
    assert "16.2 points below the untrained encoder" in pages["collapsed"].text
    assert 'class="gain worse"' in pages["collapsed"].source and 'class="gain worse"' not in pages["healthy"].source


def test_missing_parts_are_said(pages: dict[str, Page]) -> None:
    text = pages["aborted"].text
    for said in (
        "metrics.jsonl ends in the middle of a line",
        "evaluation.json is missing",
        "gallery.npz is missing",
        "environment.json is missing",
        "No verdict",
        "No map",
        "No neighbours",
        "No views",
    ):
        assert said in text
    assert "No accuracies: the data carry no labels" in pages["unlabelled"].text
    assert "recorded no monitors" not in pages["no_monitors"].text  # it was evaluated, so the verdict stands
    assert "No spectrum" in pages["no_monitors"].text
    assert "What this report could not show" not in pages["healthy"].text


def test_status_is_a_word_and_not_only_a_colour(pages: dict[str, Page]) -> None:
    assert "Collapse" in pages["collapsed"].text and "badge bad" in pages["collapsed"].source
    assert "Healthy" in pages["healthy"].text and "badge good" in pages["healthy"].source


def test_channels_are_explained(pages: dict[str, Page]) -> None:
    assert "5 channels; the first three are shown" in pages["five_channels"].text
    assert "channels" not in pages["healthy"].text.replace("channels_last", "")


def test_long_lists_are_cut_and_counted(pages: dict[str, Page]) -> None:
    text = pages["many_rejected"].text
    assert "5,000 files were set aside" in text and "and 4,900 more in rejected.jsonl" in text
    assert "broken/00099.jpg" in text and "broken/00100.jpg" not in text


def test_map_has_every_point_and_class(pages: dict[str, Page]) -> None:
    source = pages["healthy"].source
    drawn = source[source.index('class="chart map"') :]
    assert drawn[: drawn.index("</svg>")].count("<title>") == 1000
    assert all(name in pages["healthy"].text for name in runs.CLASSES)


def test_recipe_is_shown_twice_and_whole(pages: dict[str, Page]) -> None:
    found = pages["healthy"]
    assert " ".join(runs.RECIPE.split()) in found.text
    assert "batch_size" in found.text and "512, 512, 128" in found.text


def test_comparison_marks_the_best_and_lists_differences(tmp_path: Path, page: Read) -> None:
    dirs = [runs.healthy(tmp_path / "one"), runs.collapsed(tmp_path / "two")]
    found = page(report.write(dirs, tmp_path / "both.html"))
    best = re.findall(r'class="best"><strong>([^<]*)<', found.source)
    assert "62.3\u00a0%" in best and not any("12.0" in cell for cell in best)
    section = found.source[found.source.index('id="recipe"') : found.source.index('id="environment"')]
    rows = re.findall(r'<th scope="row">(.*?)</th>', section)
    assert [row.replace("<wbr>", "") for row in rows] == ["method.target", "optim.rate", "optim.weight_decay"][
        : len(rows)
    ]
    assert len(rows) == 2 and "shared" in section and "detached" in section


@pytest.mark.parametrize("what", ["split", "data"])
def test_no_best_across_different_images(tmp_path: Path, page: Read, what: str) -> None:
    dirs = [runs.healthy(tmp_path / "one"), runs.collapsed(tmp_path / "two")]
    if what == "split":
        (dirs[1] / "evaluation.json").write_text(json.dumps(runs.evaluation() | {"split": "test"}))
    else:
        (dirs[1] / "environment.json").write_text(json.dumps(runs.ENVIRONMENT | {"data": "other photos"}))
    found = page(report.write(dirs, tmp_path / "both.html"))
    assert 'class="best"' not in found.source and "the images differ" in found.text
    assert ("other photos" if what == "data" else "test split") in found.text


def test_label_of_runs_tells_them_apart(tmp_path: Path, page: Read) -> None:
    dirs = [runs.aborted(tmp_path / "a" / "run"), runs.aborted(tmp_path / "b" / "run")]
    text = page(report.write([*dirs, dirs[0]], tmp_path / "out.html")).text
    assert "b/run" in text and "a/run (1)" in text and "a/run (3)" in text


def test_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.aborted(tmp_path / "run")
    assert report.write([run]) == run / "report.html"
    (tmp_path / "folder").mkdir()
    assert report.write([run], tmp_path / "folder") == tmp_path / "folder" / "report.html"
    assert report.write([run], tmp_path / "new" / "page.html").is_file()
    monkeypatch.chdir(tmp_path)
    assert report.write([run, run]).resolve() == tmp_path / "report.html"


def test_wrong_paths_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(report.ReportError, match="No run directory given"):
        report.write([])
    with pytest.raises(report.ReportError, match=r"nowhere does not exist"):
        report.write([tmp_path / "nowhere"])
    with pytest.raises(report.ReportError, match=r"file.txt is a file"):
        report.write([tmp_path / "file.txt"])
    with pytest.raises(report.ReportError, match=r"holds none of recipe.toml, metrics.jsonl, evaluation.json"):
        report.write([tmp_path / "empty"])
    with pytest.raises(report.ReportError, match="Cannot write"):
        report.write([runs.aborted(tmp_path / "run")], tmp_path / "file.txt" / "report.html")


def test_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.aborted(tmp_path / "run")
    target = report.write([run])
    target.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(report.ReportError, match="No space left on device"):
        report.write([run])
    assert target.read_text() == "old"
    assert sorted(path.name for path in run.iterdir()) == ["metrics.jsonl", "recipe.toml", "report.html"]


def test_same_run_gives_the_same_page(run_dirs: dict[str, Path], tmp_path: Path) -> None:
    first, second = (report.write([run_dirs["healthy"]], tmp_path / name) for name in ("1.html", "2.html"))
    assert first.read_bytes() == second.read_bytes()


def test_room_needs_no_torch() -> None:
    code = "import sys, siamscope.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
