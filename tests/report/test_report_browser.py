"""The page in headless Chromium: no console message, nothing wider than a phone. Skipped where there is no Chromium."""

import json
import os
import re
import shutil
import subprocess
from html import escape
from pathlib import Path

import pytest

from siamscope import report

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    *("--enable-logging=stderr", "--v=0"),
)

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
    pytest.mark.skipif(os.environ.get("SIAMSCOPE_NO_BROWSER") == "1", reason="SIAMSCOPE_NO_BROWSER=1"),
]


def browse(page: Path, profile: Path) -> tuple[str, list[str]]:
    """The document after loading, and the console's messages."""
    command = [
        str(CHROMIUM),
        *FLAGS,
        f"--user-data-dir={profile}",
        "--virtual-time-budget=3000",
        "--dump-dom",
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0 and not done.stdout:
        pytest.skip(f"Chromium does not run here: {done.stderr[-200:]}")
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_no_console_message(run_dirs: dict[str, Path], tmp_path: Path) -> None:
    """All pages in one browser: each as a frame of one document, so that one start serves."""
    pages = [report.write([path], tmp_path / f"{index}.html") for index, path in enumerate(run_dirs.values())]
    pages.append(report.write(list(run_dirs.values()), tmp_path / "all.html"))
    frames = "".join(f'<iframe src="{page.name}"></iframe>' for page in pages)
    (tmp_path / "frames.html").write_text(f"<!DOCTYPE html><title>frames</title>{frames}")
    document, console = browse(tmp_path / "frames.html", tmp_path / "profile")
    assert document.count("<iframe") == len(pages)
    assert console == []


def test_console_is_watched(tmp_path: Path) -> None:
    """Negative control: a page that breaks its own policy is caught."""
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
        "<script>alert(1)</script>"
    )
    assert browse(tmp_path / "bad.html", tmp_path / "profile")[1]


def test_nothing_is_wider_than_a_phone(run_dirs: dict[str, Path], tmp_path: Path) -> None:
    """In a frame 360 px wide no page scrolls sideways (measured by the parent document: the pages run no script)."""
    pages = [report.write([path], tmp_path / f"{index}.html") for index, path in enumerate(run_dirs.values())]
    pages.append(report.write(list(run_dirs.values()), tmp_path / "all.html"))
    sources = [re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8")) for page in pages]
    sources.append("<!DOCTYPE html><div style='width:500px'>too wide</div>")  # negative control
    frames = "".join(f'<iframe style="width:360px;border:0" srcdoc="{escape(source)}"></iframe>' for source in sources)
    script = (
        "onload = () => { document.title = JSON.stringify([...document.querySelectorAll('iframe')].map("
        "frame => frame.contentDocument.documentElement).map(root => [root.clientWidth, root.scrollWidth]))}"
    )
    (tmp_path / "phone.html").write_text(f"<!DOCTYPE html><script>{script}</script>{frames}", encoding="utf-8")
    document, _ = browse(tmp_path / "phone.html", tmp_path / "profile")
    found = re.search(r"<title>(\[.*?\])</title>", document)
    assert found
    *measured, control = json.loads(found[1])
    assert control[1] > control[0]
    assert len(measured) == len(pages) and all(scroll <= client for client, scroll in measured), measured
