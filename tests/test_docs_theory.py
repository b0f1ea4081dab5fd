"""docs/theory is held to the code: examples run, checks are shown as they come out, names and links resolve."""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import importlib
import inspect
import io
import re
import shlex
from functools import cache
from pathlib import Path

import pytest
import tyro

from siamscope import dynamics
from siamscope.cli_groups import GROUPS
from siamscope.dynamics import checks

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "docs" / "theory"
PAGES = sorted(path.name for path in FOLDER.glob("*.md"))
CLAIMS = {claim.id: claim for experiment in checks.EXPERIMENTS for claim in experiment.claims}
ROW = re.compile(r"^pass +(\S+) ([<>]) (\S+) +(\S+) +(theorem|erratum|negative control|observation) +(.*)$")
COMMAND = re.compile(r"siamscope dynamics ([a-z]+)([^`|\n]*)")
ID = re.compile(r"A\d+[a-z]?(\.[a-z]+)?")
REPEATED = "A4b*,A6*,A7*,A8*,A11.grows,A14.[sn]*,A15*,A27,A27.paper"
"""Checks of some hundredths of a second, run again to see that the pages show what comes out."""
OTHERS = {"ravel", "directcopy"}
"""Words in backticks that are not of siamscope.dynamics: numpy's, the released code's."""


def page(name):
    return (FOLDER / name).read_text(encoding="utf-8")


def blocks(name, kind):
    """Code of the blocks of a kind, each with the text block right behind it, if there is one."""
    pattern = rf"^```{kind}\n(.*?)^```$(?:\n```text\n(.*?)^```$)?"
    return re.findall(pattern, page(name), re.M | re.S)


def ticked(name):
    """What stands in backticks outside of code blocks."""
    prose = re.sub(r"^```.*?^```$", "", page(name), flags=re.M | re.S)
    return re.findall(r"`([^`\n]+)`", prose)


def commands(name):
    """(sub-command, arguments) of every command line on a page."""
    return [(sub, shlex.split(rest)) for sub, rest in COMMAND.findall(page(name))]


def selected(patterns):
    return [name for name in CLAIMS if any(fnmatch.fnmatchcase(name, one) for one in patterns.split(","))]


def shown(name):
    """(patterns of --only, rows) of every table of checks on a page."""
    tables = []
    for block, _ in blocks(name, "console"):
        first, _, *rows = block.splitlines()
        words = shlex.split(first.removeprefix("$ "))
        assert words[:3] == ["siamscope", "dynamics", "check"] and words[3:6] == ["--seed", "0", "--only"], first
        tables.append((words[6], [ROW.match(row) for row in rows]))
    return tables


def test_the_pages_are_there_and_on_the_map():
    assert len(PAGES) == 12
    assert {name for name in PAGES if name != "README.md"} <= set(re.findall(r"\]\((\S+?\.md)\)", page("README.md")))


@pytest.mark.parametrize("name", PAGES)
def test_examples_run(name):
    """One namespace for a page; where a text block follows the code, it is what the code prints."""
    space: dict[str, object] = {}
    found = blocks(name, "python")
    assert found or name == "errata.md"
    for code, want in found:
        said = io.StringIO()
        with contextlib.redirect_stdout(said):
            exec(compile(code, name, "exec"), space)
        assert said.getvalue() == want


@pytest.mark.parametrize("name", PAGES)
def test_tables_of_checks_are_the_registry(name):
    """Every row has the claim, kind and bound of the code, and a residual within; all that --only names are there."""
    for patterns, rows in shown(name):
        assert all(rows), patterns
        assert [row[4] for row in rows] == selected(patterns)
        for row in rows:
            claim = CLAIMS[row[4]]
            assert (row[5], row[6]) == (claim.kind, claim.text)
            assert (row[2], float(row[3])) == ("<>"[claim.above], pytest.approx(claim.bound, rel=0.01))
            assert claim.holds(float(row[1]))


def test_every_check_is_documented_and_every_named_check_exists():
    tables = {row[4] for name in PAGES if name != "errata.md" for _, rows in shown(name) for row in rows}
    assert tables == set(checks.ids())
    named = {word for name in PAGES for word in ticked(name) if ID.fullmatch(word)}
    assert named and named <= set(checks.ids())
    for name in PAGES:
        for sub, args in commands(name):
            if "--only" in args:
                assert sub == "check"
                for pattern in args[args.index("--only") + 1].split(","):
                    assert selected(pattern), f"{name}: {pattern}"


def test_every_erratum_is_listed_with_its_check_and_its_test():
    text = page("errata.md")
    lines = [args[args.index("--only") + 1] for sub, args in commands("errata.md") if "--only" in args]
    entries = {name for patterns in lines[:-1] for name in selected(patterns)}  # the last one is the table of all
    assert {name for name, claim in CLAIMS.items() if claim.kind == "erratum"} <= entries
    for file, function in re.findall(r"`(tests/\S+?\.py)::(\w+)`", text):
        assert f"def {function}(" in (ROOT / file).read_text(encoding="utf-8")
    assert text.count("::test_") >= 11


@cache
def residuals():
    return {row.id: row.residual for row in checks.run(REPEATED, seed=0)}


@pytest.mark.parametrize("name", PAGES)
def test_what_is_shown_is_what_comes_out(name):
    """Residuals that are not rounding are repeated to the digits shown."""
    for _, rows in shown(name):
        for row in rows:
            if row[4] in residuals() and abs(float(row[1])) > 1e-6:
                assert residuals()[row[4]] == pytest.approx(float(row[1]), rel=0.1)
    assert sum(abs(value) > 1e-6 for value in residuals().values()) >= 10


def resolve(path):
    """The object of a dotted name; a field of a dataclass counts."""
    first, *rest = path.split(".")
    here = importlib.import_module(first)
    for i, part in enumerate(rest):
        with contextlib.suppress(ImportError):
            here = importlib.import_module(".".join([first, *rest[: i + 1]]))
            continue
        if dataclasses.is_dataclass(here) and part in {field.name for field in dataclasses.fields(here)}:
            return here
        here = getattr(here, part)
    return here


@cache
def parameters():
    """Names of the parameters of everything public in siamscope.dynamics."""
    things = [getattr(dynamics, name) for name in dynamics.__all__]
    return {
        name
        for thing in things
        if callable(thing) and thing is not dynamics.DynamicsError
        for name in inspect.signature(thing).parameters
    }


@pytest.mark.parametrize("name", PAGES)
def test_names_in_backticks_exist(name):
    """Dotted names, calls with their keywords, `keyword=value`, and plain words, which must be known from somewhere."""
    known = {*dynamics.__all__, *GROUPS["dynamics"], *parameters(), *OTHERS}
    for word in ticked(name):
        path, _, call = word.partition("(")
        keyword, assigned, _ = word.partition("=")
        if path.startswith("siamscope."):
            resolve(path)
        elif path.split(".")[0] in dynamics.__all__:
            thing = resolve(f"siamscope.dynamics.{path}")
            given = set(re.findall(r"(\w+)=", call))
            assert not given or given <= set(inspect.signature(thing).parameters), f"{name}: {word}"
        elif re.fullmatch(r"[A-Za-z_]\w*", word):
            assert word in known or ID.fullmatch(word), f"{name}: {word}"
        elif assigned and re.fullmatch(r"[a-z_]\w*", keyword):
            assert keyword in known, f"{name}: {word}"


@pytest.mark.parametrize("name", PAGES)
def test_links_and_files_exist(name):
    for link in re.findall(r"\]\(([^)\s]+)\)", page(name)):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = FOLDER / path
            assert target.is_file(), f"{name}: {link}"
            if anchor:
                titles = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M)
                assert anchor in {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for file in re.findall(r"`(tests/\S+?\.py)(?:::\w+)?`", page(name)):
        assert (ROOT / file).is_file(), f"{name}: {file}"


@pytest.mark.parametrize("name", PAGES)
def test_command_lines_are_understood(name):
    """Sub-commands exist; options are parsed as the command line parses them."""
    for sub, args in commands(name):
        assert sub in GROUPS["dynamics"], f"{name}: {sub}"
        if args and sub != "predict":
            options = importlib.import_module(f"siamscope.workflow.dynamics.{sub}").Options
            tyro.cli(options, args=args)
    if name == "README.md":
        listed = re.findall(r"^\| `(\w+)` \|", page(name), re.M)
        assert listed == list(GROUPS["dynamics"])


def test_the_tests_notice():
    """Controls: a wrong name, a wrong bound, a wrong id."""
    with pytest.raises(AttributeError):
        resolve("siamscope.dynamics.Modes.nothing")
    assert selected("A99") == [] and ROW.match("FAIL       1 < 1e-07   A1  theorem  x") is None
    assert not CLAIMS["A7"].holds(1.0) and not CLAIMS["A7.sign"].holds(0.0)
