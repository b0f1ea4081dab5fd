"""The section on where the time went: there when profile.json is, and never a crash."""

import json
from pathlib import Path

import pytest
import report_runs as runs

from siamscope import report


def span(name: str, ms: float, share: float, calls: float = 1.0, inside: tuple[dict, ...] = ()) -> dict[str, object]:
    return {"name": name, "ms": ms, "share": share, "calls": calls, "inside": list(inside)}


FOUND = {
    "first_step": 1,
    "last_step": 240,
    "clock": "host",
    "step_ms": 200.0,
    "images_per_second": 320.0,
    "spans": [span("forward", 150, 0.75, inside=(span("online", 120, 0.6, 2.0),)), span("data", 50.0, 0.25)],
    "advice": ["the step waits for images: <b>more readers</b>"],
}


def text_of(run: Path) -> str:
    return report.write([run]).read_text(encoding="utf-8")


def test_the_page_shows_where_the_time_went(tmp_path: Path) -> None:
    run = runs.healthy(tmp_path / "run")
    assert "Where the time went" not in text_of(run)
    (run / "profile.json").write_text(json.dumps(FOUND))
    page = text_of(run)
    section = page[page.index('<h2 id="timing">') : page.index('<h2 id="environment">')]
    for shown in ("Where the time went", "steps 1 to 240, 320 images/s", "· online", "75.0", "25.0", "What to try"):
        assert shown in section
    assert "&lt;b&gt;more readers" in section and "<b>more" not in section
    assert section.index(">forward<") < section.index("· online") < section.index(">data<")


@pytest.mark.parametrize(
    "damaged", ["{", "[]", "{}", '{"spans": 3}', '{"spans": [1, {"name": [], "ms": "x"}], "advice": {"a": 1}}']
)
def test_a_damaged_profile_is_no_crash(tmp_path: Path, damaged: str) -> None:
    run = runs.healthy(tmp_path / "run")
    (run / "profile.json").write_text(damaged)
    assert "</html>" in text_of(run)
    assert ("profile.json" in text_of(run)) == (damaged in ("{", "[]"))  # said where it cannot be read
