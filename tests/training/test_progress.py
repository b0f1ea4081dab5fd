"""What a person sees: on a terminal a bar, without one a line; and words before the bar exists."""

import sys

import pytest

from siamscope.training.progress import Bar, Plain, duration, reporter

RECORD = {"step": 5, "epoch": 0.5, "health": "partial collapse", "feature_effective_rank": 3.2, "knn": 0.5}


@pytest.mark.parametrize("kind", [Bar, Plain])
def test_messages_before_during_and_after(kind, capsys):
    shown = kind()
    shown.say("reading images")
    shown.start(0, 10)
    shown.step(5, 0.25, 123.0)
    shown.measured(RECORD)
    shown.say("a note [with brackets]")
    shown.close()
    shown.close()
    shown.say("judging")
    err = capsys.readouterr().err
    for words in ("reading images", "[with brackets]", "judging"):
        assert words in err


def test_a_plain_line_says_everything(capsys):
    shown = Plain()
    shown.start(0, 10)
    shown.step(5, 0.25, 123.0)
    shown.measured(RECORD)
    line = capsys.readouterr().err
    for words in ("5/10", "0.2500", "123 images/s", "k-NN 50.0 %", "partial collapse", "left"):
        assert words in line


def test_the_bar_shows_loss_speed_and_health(monkeypatch):
    shown = Bar()
    shown.start(0, 10)
    shown.step(5, 0.25, 123.0)
    shown.measured(RECORD)
    fields = shown.progress.tasks[0].fields
    assert (fields["loss"], fields["rate"], fields["health"], fields["style"]) == (
        "0.2500", "123", "partial collapse", "yellow",
    )  # fmt: skip
    assert shown.progress.tasks[0].completed == 5
    shown.close()


def test_the_terminal_decides(monkeypatch):
    for terminal, kind in ((True, Bar), (False, Plain)):
        monkeypatch.setattr(sys.stderr, "isatty", lambda terminal=terminal: terminal, raising=False)
        assert type(reporter()) is kind


def test_durations():
    assert [duration(s) for s in (0, 59.4, 61, 3599, 3700)] == [
        "0 s",
        "59 s",
        "1 min 01 s",
        "59 min 59 s",
        "1 h 01 min",
    ]
