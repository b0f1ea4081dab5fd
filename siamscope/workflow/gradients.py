"""`siamscope gradients`: every method's gradient on the same embeddings, and over the course of a run."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from siamscope import recipe as recipes
from siamscope.gradients import Comparison, compare, geometry
from siamscope.networks import NetworkError
from siamscope.objectives import ObjectiveError
from siamscope.recipe import Recipe
from siamscope.report.gradients import write as write_page
from siamscope.row import Method
from siamscope.rundir import explained, finite, write_text
from siamscope.training.progress import Reporter, Silent
from siamscope.workflow import compare_plan as plan
from siamscope.workflow import environment
from siamscope.workflow.gradients_embed import GradientsError, Moment, Origin, origin
from siamscope.workflow.gradients_escape import EPS, Rate, rate
from siamscope.workflow.gradients_rows import Found, gradient_of, ready, uses_others

TOP = 5
"""Eigenvalues of F that are written."""
Line = dict[str, Any]


@dataclass(frozen=True)
class Laid:
    """What the command ends with: the content of gradients.json, the text to print, and the page."""

    facts: dict[str, Any]
    text: str
    page: Path


@dataclass(frozen=True)
class Subject:
    """One method of the comparison; `own` marks the row of the run itself."""

    name: str
    row: Method | None
    problem: str
    escape: Rate | None
    own: bool = False


def gradients(
    recipe: Recipe,
    source: str,
    out: str | Path = "gradients",
    *,
    methods: str = "all",
    pairs: int = 256,
    reference: str = "unigrad",
    cells: Sequence[str] = (),
    as_trained: bool = False,
    reporter: Reporter | None = None,
) -> Laid:
    """Compare the gradients of methods on the embeddings of `source`: 'random', images, or a run directory.

    `cells`: dotted names of cells of `recipe.method` that go into every row. `as_trained`: rows with a momentum target
    get the embeddings of the run's momentum network as targets, and the run's own row its running statistics; without
    it all rows get the online embeddings, and statistics of this batch, so that only their form differs.

    Writes gradients.csv, cosines.csv, gradients.json, gradients.png and gradients.html to `out`.

    Raises:
        GradientsError, PlanError, RunError, CheckpointError, RecipeError, DataError: what cannot be used, and why.
    """
    reporter = reporter or Silent()
    recipes.validate(recipe)
    names, (reference,) = plan.chosen(f"{methods},{reference}"), _one(reference)
    folder = Path(out)
    if folder.is_file() or (folder / "recipe.toml").is_file():
        raise GradientsError(f"{folder} is a {'file' if folder.is_file() else 'run'}; give another --out")
    is_run = (Path(source) / "recipe.toml").is_file()
    subjects = _subjects(recipe, names, () if is_run else cells, is_run)
    others = any(s.row and uses_others(s.row) for s in subjects)
    given = origin(recipe, source, pairs, others, reporter, as_trained)
    lines: list[Line] = []
    cosines: list[Line] = []
    shape: list[Line] = []
    for moment in given.moments():
        lines_now, cosines_now, shape_now = _at(moment, subjects, reference, recipe.train.seed, as_trained)
        lines, cosines, shape = lines + lines_now, cosines + cosines_now, [*shape, shape_now]
    if not lines:
        raise GradientsError(f"{source}: no moment has finite embeddings")
    facts = _facts(given, subjects, reference, as_trained, lines, shape, recipe)
    return _written(folder, facts, lines, cosines)


def _one(reference: str) -> list[str]:
    found = plan.chosen(reference)
    if len(found) != 1:
        raise GradientsError(f"--reference must name one method, got {reference!r}")
    return found


def _subjects(recipe: Recipe, names: Sequence[str], cells: Sequence[str], is_run: bool) -> list[Subject]:
    """The rows as shipped, with the cells given for all and the shared projector; the run's own as it is."""
    out = []
    for cell in plan.cells(recipe, names, cells):
        own = is_run and cell.method == recipe.method.name
        row = recipe.method if own else cell.row
        out.append(Subject(cell.method, row, cell.problem, rate(row, recipe.train.seed) if row else None, own))
    return out


# ------------------------------------------------------------------------------------------ one moment


def _at(
    moment: Moment, subjects: Sequence[Subject], reference: str, seed: int, as_trained: bool
) -> tuple[list[Line], list[Line], Line]:
    """The lines of gradients.csv and of cosines.csv at one moment, and the embeddings' shape."""
    views = moment.embeddings.pairs
    found: dict[str, Found] = {}
    remarks: dict[str, str] = {}
    problems = {s.name: s.problem for s in subjects if s.row is None}
    for subject in subjects:
        if subject.row is None:
            continue
        try:
            made = ready(subject.row, moment.embeddings, seed, moment.model if subject.own else None, as_trained)
            found[subject.name] = gradient_of(made, views)
            remarks[subject.name] = "; ".join(made.remarks)
        except (ObjectiveError, NetworkError) as error:
            problems[subject.name] = str(error)
    shape = {"step": moment.step, "label": moment.label, **_shape(moment)}
    compared = compare({name: f.terms for name, f in found.items()}, views.online[0]) if found else None
    lines = [_line(s, found.get(s.name), compared, reference) for s in subjects]
    for line in lines:
        name = line["method"]
        line |= {"remark": remarks.get(name, ""), "problem": problems.get(name, "")}
    about = {"step": moment.step, "label": moment.label}
    return [about | line | _embeddings(shape) for line in lines], _cosines(about, compared), shape


def _shape(moment: Moment) -> Line:
    first, second = moment.embeddings.pairs.online
    found = geometry(first, second, TOP).row()
    length = float(torch.linalg.vector_norm(torch.cat([first, second]), dim=1).mean())
    return {"samples": len(first), "dimensions": first.shape[1], "length": length, **found}


def _embeddings(shape: Line) -> Line:
    return {key: value for key, value in shape.items() if key not in ("step", "label")}


def _line(subject: Subject, found: Found | None, compared: Comparison | None, reference: str) -> Line:
    """One method's numbers; None for what it does not have."""
    out: Line = {"method": subject.name, "own": int(subject.own), "reference": reference}
    keys = ("pull", "push", "ratio", "total", "balance", "radial", "radial_z", "cosine", "cosine_push")
    out |= dict.fromkeys(keys)
    if found is not None and compared is not None:
        i = compared.names.index(subject.name)
        norms = compared.norms[i]
        out |= {"pull": norms.pull, "push": norms.push, "ratio": norms.ratio, "total": norms.total}
        out |= {"balance": found.balance, "radial": found.radial, "radial_z": norms.radial}
        if reference in compared.names:
            k = compared.names.index(reference)
            out |= {
                "cosine": float(compared.total_cosines[i, k]),
                "cosine_push": float(compared.negative_cosines[i, k]),
            }
    escape = subject.escape or Rate(None, None, False)
    return out | {
        "escape_predicted": escape.predicted,
        "escape_measured": escape.measured,
        "escape_linear": int(escape.linear),
    }


def _cosines(about: Line, compared: Comparison | None) -> list[Line]:
    if compared is None:
        return []
    return [
        about | {
            "method": a, "other": b,
            "total": float(compared.total_cosines[i, k]), "push": float(compared.negative_cosines[i, k]),
        }
        for i, a in enumerate(compared.names) for k, b in enumerate(compared.names)
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ after


def _facts(
    given: Origin,
    subjects: Sequence[Subject],
    reference: str,
    as_trained: bool,
    lines: list[Line],
    shape: list[Line],
    recipe: Recipe,
) -> dict[str, Any]:
    return {
        "kind": "siamscope gradients",
        "source": {"kind": given.kind, "name": given.title},
        "reference": reference,
        "as_trained": as_trained,
        "seed": recipe.train.seed,
        "written": environment.now(),
        "environment": environment.describe(torch.device("cpu")),
        "escape_perturbation": EPS,
        "embeddings": shape,
        "lines": [{k: v for k, v in line.items() if k not in shape[0] or k in ("step", "label")} for line in lines],
        "rows": {s.name: asdict(s.row) for s in subjects if s.row},
        "escape_problems": {s.name: s.escape.problem for s in subjects if s.escape and s.escape.problem},
        "recipe": recipes.to_dict(given.recipe),
    }


def _written(folder: Path, facts: dict[str, Any], lines: list[Line], cosines: list[Line]) -> Laid:
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "gradients.csv", _csv(lines))
    write_text(folder / "cosines.csv", _csv(cosines or [dict.fromkeys(("step", "label", "method", "other"))]))
    write_text(folder / "gradients.json", json.dumps(finite(facts), indent=1) + "\n")
    page = write_page(folder)
    return Laid(facts, _text(facts, lines, page), page)


def _csv(lines: Sequence[Mapping[str, Any]]) -> str:
    """Numbers in full, so that the figure and the page can be drawn from the file."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in line.items()} for line in lines)
    return out.getvalue()


def _cell(value: Any) -> Any:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value


_COLUMNS = (
    ("pull", "pull"), ("push", "push"), ("push/pull", "ratio"), ("balance", "balance"), ("radial", "radial"),
    ("cosine", "cosine"), ("cos push", "cosine_push"), ("escape", "escape_measured"), ("predicted", "escape_predicted"),
)  # fmt: skip


def _text(facts: dict[str, Any], lines: list[Line], page: Path) -> str:
    """What is printed: the last moment's table, and the cosine with the reference over the run."""
    last = facts["embeddings"][-1]
    source = facts["source"]
    out = [
        f"{source['name']}, {last['label']} (step {last['step']}): {last['samples']} pairs in {last['dimensions']} "
        f"dimensions; similarity of positives {last['positive_mean']:.3f} ± {last['positive_std']:.3f}, "
        f"of others {last['negative_mean']:.3f} ± {last['negative_std']:.3f}; effective rank of F "
        f"{last['effective_rank']:.1f}, largest eigenvalues "
        + ", ".join(f"{last[f'eigenvalue_{i}']:.3f}" for i in range(1, TOP + 1) if f"eigenvalue_{i}" in last),
        "",
    ]
    now = [line for line in lines if line["step"] == last["step"]]
    head = ["method", *(title for title, _ in _COLUMNS)]
    rows = [[_name(line), *(_escape(line) if k == "escape_measured" else _number(line[k]) for _, k in _COLUMNS)]
            for line in now if line["pull"] is not None]  # fmt: skip
    out += [*_aligned([head, *rows]), ""]
    out += [f"{line['method']}: no gradient: {line['problem'].splitlines()[0]}" for line in now if line["problem"]]
    steps = [shape["step"] for shape in facts["embeddings"]]
    if len(steps) > 1:
        out += [f"cosine with {facts['reference']}'s gradient over the run:"]
        by = {(line["method"], line["step"]): line["cosine"] for line in lines}
        table = [[_name(line), *(_number(by[line["method"], step]) for step in steps)] for line in now]
        out += [*_aligned([["step", *map(str, steps)], *table]), ""]
    out.append(f"cosine: of the whole tangent gradient with {facts['reference']}'s; ~: the rate depends on the size")
    if any(line["own"] for line in now):
        out.append("*: the run's own row, with its trained weights")
    return "\n".join([*out, f"page     {page}", f"figure   {page.with_suffix('.png')}"])


def _name(line: Line) -> str:
    return f"{line['method']}*" if line["own"] else str(line["method"])


def _escape(line: Line) -> str:
    text = _number(line["escape_measured"])
    return text if line["escape_linear"] or line["escape_measured"] is None else f"~{text}"


def _number(value: float | None) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "0" if abs(value) < 5e-7 else f"{value:.3g}"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns of one width, the first to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
