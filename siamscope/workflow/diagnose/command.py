"""`siamscope diagnose`: is a representation collapsing, how far, and what to change."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

import siamscope
from siamscope.collapse.definitions import DEFINITIONS
from siamscope.collapse.diagnose import IntervalBy
from siamscope.report import diagnose as page
from siamscope.report import diagnose_figure as figure
from siamscope.rundir import finite, write_text
from siamscope.training import progress
from siamscope.workflow.answer import Answer
from siamscope.workflow.diagnose import inputs, limits, text
from siamscope.workflow.diagnose.loaded import Ask, DiagnoseError
from siamscope.workflow.diagnose.measure import compared, definitions, measure, wanted

FAILED = 5
"""Exit code when a limit of --fail-above or --fail-below is not kept."""


@dataclass(frozen=True)
class Options:
    """Features are taken after pooling, in eval mode, of whole images without augmentation.

    Exit code 0, or 5 if a limit is not kept.
    """

    inputs: Annotated[tuple[str, ...], Positional, arg(metavar="INPUT")]
    """Run directories, checkpoints (.pt), encoders (.safetensors, .json), features (.npy, .npz, .csv, .tsv, .txt) and
    timm:NAME; several are shown side by side."""
    data: str = ""
    """Images for networks: shapes, fashion-mnist, a folder, or a file of arrays. Without it those of the run."""
    split: Literal["auto", "train", "validation", "test", "all"] = "auto"
    """Which images; auto: a run's own validation images, all of --data, all rows of a file."""
    size: int = 0
    """Side that images of --data are stored with, in pixels. 0: as the run or encoder takes them."""
    samples: int = 10_000
    """Images of a network at most, drawn by the seed (0 = all). Files are used whole."""
    embeddings: bool = False
    """Take the projector's output of a run or checkpoint; of a file, say that it holds such embeddings."""
    views: int = 0
    """Random views of each image, for LiDAR and alignment. 0 = none."""
    view_images: int = 1000
    """Images that views are made of, at most; LiDAR wants more images than dimensions."""
    only: str = ""
    """Scores to show, with commas between them (AUC, effective rank and std always are)."""
    slow: bool = False
    """Also the intrinsic dimension (TwoNN) and the cluster learnability of CLID."""
    interval: IntervalBy = "jackknife"
    """Intervals of 95 %: jackknife (leaving out blocks of rows: one more pass), bootstrap (rows drawn again: slower),
    or none."""
    center: bool = True
    """Subtract the column means. --no-center: also where a score is defined on the centred features."""
    row_norm: bool = False
    """Divide rows by their length first (the papers' published values do not)."""
    fail_above: str = ""
    """Limits, as auc=0.95,self_cluster=0.9: a score above its limit gives exit code 5."""
    fail_below: str = ""
    """Limits, as rankme=20: a score below its limit gives exit code 5."""
    out: Path = Path("diagnose")
    """Folder to write: diagnose.png, diagnose.html, diagnose.json."""
    write: bool = True
    """--no-write: only print."""
    definitions: bool = False
    """Print source, formula, convention and sample-size advice of every score as well."""
    seed: int | None = None
    """Seed of what is drawn. None: that of the run, else 0."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    quiet: bool = False
    """Show no progress."""
    json: bool = False
    """Print JSON."""


def run(options: Options) -> Answer:
    """Diagnose every input; see `Options`.

    Raises:
        DiagnoseError and other ValueErrors of the package: what is wrong with an input or an option.
    """
    only = [limits.canonical(word, DEFINITIONS, "--only") for word in options.only.split(",") if word.strip()]
    bounds = limits.parse(options.fail_above, True, DEFINITIONS) + limits.parse(options.fail_below, False, DEFINITIONS)
    _check(options)
    limited = [limit.score for limit in bounds]
    reporter = progress.Silent() if options.quiet or options.json else progress.reporter()
    ask = Ask(
        options.data, options.size, options.split, options.samples, options.embeddings, options.views,
        options.view_images, options.seed, options.device,
    )  # fmt: skip
    found: list[dict[str, Any]] = []
    for word in options.inputs:
        loaded = inputs.load(word, ask, reporter)
        names = wanted(loaded, only, limited, options.slow)
        seed = loaded.about.get("seed") or 0 if options.seed is None else options.seed
        found.append(
            measure(
                loaded, names, interval=options.interval, center=options.center, row_norm=options.row_norm, seed=seed
            )
        )
    failed = [
        line
        for one in found
        for line in limits.broken(bounds, {k: _value(v) for k, v in one["scores"].items()}, one["name"])
    ]
    shown = [name for name in DEFINITIONS if any(name in one["scores"] for one in found)]
    facts: dict[str, Any] = finite(
        {
            "siamscope": siamscope.__version__,
            "written": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "inputs": found,
            "warnings": compared(found),
            "failed": failed,
            "definitions": definitions(shown),
        }
    )
    files = _write(facts, options.out) if options.write else []
    if options.json:
        return Answer(json.dumps(facts, allow_nan=False), FAILED if failed else 0)
    words = text.answer(found, facts["warnings"], failed, files)
    words += "\n\n" + text.definitions(shown) if options.definitions else ""
    return Answer(words, FAILED if failed else 0)


def _check(options: Options) -> None:
    if not options.inputs:
        raise DiagnoseError("nothing to diagnose: name a run, checkpoint, encoder, file of features or timm:NAME")
    if options.views == 1 or options.views < 0:
        raise DiagnoseError(f"--views is the number of views of an image: 0, or at least 2; got {options.views}")
    if options.samples < 0 or options.samples == 1:
        raise DiagnoseError(f"--samples must be 0 (all) or at least 2, got {options.samples}")
    if options.view_images < 2:
        raise DiagnoseError(f"--view-images must be at least 2, got {options.view_images}")


def _value(found: dict[str, Any]) -> float:
    return math.nan if found["value"] is None else float(found["value"])


def _write(facts: dict[str, Any], out: Path) -> list[str]:
    """The three files; their names."""
    if out.exists() and not out.is_dir():
        raise DiagnoseError(f"{out} is a file; give another folder with --out, or --no-write")
    picture = figure.draw(facts["inputs"], out / "diagnose.png")
    written = page.write(facts, out / "diagnose.html")
    write_text(out / "diagnose.json", json.dumps(facts, allow_nan=False, indent=1) + "\n")
    first = f" (of the first {figure.MOST} inputs)" if len(facts["inputs"]) > figure.MOST else ""
    return [f"{picture}{first}", str(written), str(out / "diagnose.json")]
