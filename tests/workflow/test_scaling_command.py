"""`siamscope scaling`: its table, its files, and what it says to bad input."""

import csv
import json
import shlex
from pathlib import Path

import pytest

from siamscope import cli, methods
from siamscope.workflow.scaling import curves

SMALL = ("--backbone", "resnet8", "--stem", "cifar", "--size", "32")


def facts(capsys, *args: str) -> dict:
    assert cli.run(["scaling", *SMALL, "--json", *args]) == 0
    return json.loads(capsys.readouterr().out)


def curve(found: dict, method: str, link: str = "ib400") -> dict[int, dict]:
    return {r["processes"]: r for r in found["records"] if r["method"] == method and r["link"] == link}


def test_every_method_from_1_to_1024(capsys):
    found = facts(capsys, "--links", "ib400")
    assert {r["method"] for r in found["records"]} == set(methods.METHODS)
    for name in methods.METHODS:
        mine = curve(found, name)
        assert list(mine) == [2**k for k in range(11)]
        assert mine[1]["efficiency"] == 1 and not any(mine[1]["bytes"].values()) and mine[1]["calls"] == 0
        efficiencies = [r["efficiency"] for r in mine.values()]
        assert efficiencies == sorted(efficiencies, reverse=True) and 0 < efficiencies[-1] < 1
        for record in mine.values():
            lasts = record["images"] / 1000 + sum(record["waits"].values())
            assert record["step_seconds"] == pytest.approx(lasts, rel=1e-12)


def test_gathered_embeddings_grow_with_the_batch_and_moments_do_not(capsys):
    found = facts(capsys, "--links", "ib400", "--methods", "simclr,unigrad,barlow", "--dim", "256")
    simclr, unigrad, barlow = (curve(found, name) for name in ("simclr", "unigrad", "barlow"))
    assert simclr[1024]["bytes"]["embeddings"] / simclr[512]["bytes"]["embeddings"] == pytest.approx(1023 / 511)
    assert unigrad[1024]["bytes"]["statistics"] < 2 * 4 * 256**2 and unigrad[1024]["bytes"]["embeddings"] == 0
    assert barlow[1024]["held_bytes"] == 2 * barlow[512]["held_bytes"] == 2 * 4 * 64 * 1024 * 256
    assert curves.reason(barlow[1]) == "nothing"


def test_a_faster_link_and_fewer_calls_scale_further(capsys):
    found = facts(capsys, "--links", "ib400,eth10", "--methods", "byol")
    fast, slow = curve(found, "byol"), curve(found, "byol", "eth10")
    assert all(fast[n]["efficiency"] > slow[n]["efficiency"] for n in (16, 64, 1024))
    assert fast[8]["efficiency"] == slow[8]["efficiency"]  # one node
    without = facts(capsys, "--links", "ib400", "--methods", "byol", "--without", "batch norm")
    free = curve(without, "byol")[1024]
    assert free["efficiency"] > fast[1024]["efficiency"] and free["waits"]["batch norm"] == 0
    assert free["bytes"] == fast[1024]["bytes"]


def test_strong_scaling_shares_one_batch(capsys):
    found = curve(facts(capsys, "--links", "ib400", "--methods", "simclr", "--global-batch", "96"), "simclr")
    assert list(found) == [1, 2, 4, 8, 16, 32] and all(r["images"] * n == 96 for n, r in found.items())


def test_where_it_stops():
    def records(*efficiencies: float) -> list[dict]:
        return [{"processes": 2**k, "efficiency": e} for k, e in enumerate(efficiencies)]

    assert curves.half_from(records(1, 0.9, 0.49)) == 4
    assert curves.half_from(records(1, 0.4, 0.6, 0.3, 0.2)) == 8
    assert curves.half_from(records(1, 0.5)) is None
    assert curves.reason({"waits": {"a": 1.0, "b": 2.0}}) == "b"


def test_a_bank_that_a_step_overruns_is_noted(capsys):
    assert "mocov2: its bank of 65,536 keys" in facts(capsys, "--methods", "mocov2")["notes"][0]
    assert not facts(capsys, "--methods", "mocov2", "--batch", "16")["notes"]


def test_files(capsys, tmp_path):
    out = tmp_path / "made"
    assert cli.run(["scaling", *SMALL, "--methods", "sim*", "--ranks", "1,8,16", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "simclr" in text and "efficiency, eth25 between nodes:" in text and "wrote" in text
    stored = json.loads((out / "scaling.json").read_text())
    table = list(csv.DictReader((out / "scaling.csv").open()))
    assert len(table) == len(stored["records"]) == 2 * 3 * 3
    for line, record in zip(table, stored["records"], strict=True):
        assert float(line["efficiency"]) == pytest.approx(record["efficiency"])
        assert float(line["gradients bytes"]) == pytest.approx(record["bytes"]["gradients"])
    assert (out / "scaling.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (("--links", "foo"), "unknown link 'foo'"),
        (("--inner", "foo"), "unknown link 'foo'"),
        (("--ranks", "12"), "12 processes do not fill nodes of 8"),
        (("--ranks", "a"), "ranks must be whole numbers"),
        (("--ranks", "0"), "ranks must be at least 1"),
        (("--methods", "simclx"), "did you mean 'simclr'"),
        (("--batch", "0"), "batch must be a number above 0"),
        (("--images-per-second", "nan"), "images-per-second must be a number above 0"),
        (("--global-batch", "-1"), "global-batch must be at least 0"),
        (("--global-batch", "7", "--ranks", "2,4"), "7 images cannot be shared"),
        (("--dim", "-3"), "dim must be at least 1"),
        (("--without", "x"), "without: unknown 'x'"),
        (("--backbone", "resnet51"), "unknown backbone 'resnet51'"),
        (("--out", "/proc/x"), "Cannot write /proc/x"),
    ],
)
def test_bad_input(capsys, bad, says):
    assert cli.run(["scaling", *SMALL, *bad]) == 2
    assert says in capsys.readouterr().err


def test_the_docs_show_what_the_command_prints(capsys):
    """docs/scaling.md holds the tables that the command beside them prints."""
    page = (Path(__file__).parents[2] / "docs" / "scaling.md").read_text()
    blocks = [block.split("\n```", 1)[0] for block in page.split("```text\n")[1:]]
    commands = [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ siamscope scaling")]
    assert len(commands) == len(blocks) >= 2
    for block, command in zip(blocks, commands, strict=True):
        assert cli.run(shlex.split(command)[1:]) == 0
        assert capsys.readouterr().out.strip() == block.partition("\n")[2].strip()
