"""`siamscope scaling`: bytes and calls of a step, and which methods stop scaling where."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from siamscope import methods
from siamscope.report.dynamics_style import save_table
from siamscope.row import Method
from siamscope.training.scaling import LINKS, Cluster, ScalingError, link
from siamscope.workflow.answer import Answer
from siamscope.workflow.writing import check_folder, told

PURPOSES = ("gradients", "embeddings", "statistics", "batch norm")
SHOWN = (8, 64, 256, 1024)


@dataclass(frozen=True)
class Options:
    """On paper, in seconds: no process is started and no data is read. The bytes are exact; the seconds are those of an
    idle network (latency a message plus bytes by bandwidth), with the all-reduce of gradients under the backward."""

    methods: str = "*"
    """Rows of the table of methods: names or patterns with commas between them."""
    batch: int = 64
    """Images of a process (weak scaling)."""
    global_batch: int = 0
    """Images of all processes together, whatever their number (strong scaling); 0 = weak scaling with --batch."""
    backbone: str = "resnet50"
    """Backbone, as in a recipe."""
    width: float = 1.0
    """Its width."""
    stem: str = "imagenet"
    """Its stem."""
    size: int = 224
    """Side of a view in pixels; only backbones that are built for one size use it."""
    dim: int = 0
    """Dimensions of the embeddings; 0 = as the row."""
    local_crops: int = 0
    """Further views of an image, that have no target."""
    links: str = "ib400,ib100,eth25"
    """Links between nodes, with commas between them: ib400, ib100, eth100, eth25, eth10 (line rates in Gbit/s), nvlink,
    pcie4, or GBITS:MICROSECONDS, as 100:5."""
    inner: str = "nvlink"
    """The link inside a node."""
    per_node: int = 8
    """Processes of a node."""
    algorithm: Literal["mixed", "ring", "log"] = "mixed"
    """Rounds of a collective call: by ring, logarithmic, or an all-reduce logarithmic and the others by ring (NCCL)."""
    images_per_second: float = 1000.0
    """Images that one process trains a second, alone."""
    tflops: float = 50.0
    """Float32 operations a second of a device, in 10^12: for products of the loss that grow with the whole batch."""
    device: Literal["cuda", "cpu"] = "cuda"
    """Whose batch norm and gathers: those of NCCL and a GPU, or of gloo."""
    without: str = ""
    """Purposes whose calls take no time, with commas between them (gradients, embeddings, statistics, batch norm): what
    would stop the scaling next."""
    ranks: str = "1,2,4,8,16,32,64,128,256,512,1024"
    """Numbers of processes, with commas between them; above --per-node they must fill nodes."""
    out: Path | None = None
    """Folder for scaling.json, scaling.csv and scaling.png; without it, nothing is written."""
    json: bool = False
    """Print the figures as JSON."""


def run(options: Options) -> Answer:
    """The table; the files, if a folder is given.

    Raises:
        ScalingError, MethodError, NetworkError: an option that has no meaning.
        ReportError: the folder cannot be written.
    """
    rows, worlds, clusters = _rows(options), _worlds(options), _clusters(options)
    if options.out:
        check_folder(options.out)
    _check(options, clusters, worlds)
    from siamscope.training import traffic
    from siamscope.workflow.scaling.curves import Setting, curve, too_small_bank

    at = Setting(
        options.batch, options.global_batch, options.images_per_second, options.tflops * 1e12, options.device,
        _without(options),
    )  # fmt: skip
    records: list[dict[str, Any]] = []
    notes = []
    for row in rows:
        net = traffic.network(
            row, options.backbone, stem=options.stem, width=options.width, size=options.size,
            local_crops=options.local_crops,
        )  # fmt: skip
        of_row = [curve(net, name, cluster, worlds, at) for name, cluster in clusters.items()]
        records += [record for records in of_row for record in records]
        notes += [note for note in [too_small_bank(row, of_row[0])] if note]
    if not records:
        raise ScalingError(f"{options.global_batch} images cannot be shared by any of {options.ranks} processes")
    facts = {"options": _plain(options), "records": records, "notes": notes}
    lines = [*_head(options), *table(records, list(clusters)), *(f"note: {note}" for note in notes)]
    if not options.out:
        return told(lines, [], facts, as_json=True) if options.json else Answer("\n".join(lines))
    return told(lines, _written(options, records, facts), facts, options.json)


def _rows(options: Options) -> list[Method]:
    names = []
    for pattern in (part.strip() for part in options.methods.split(",")):
        known = fnmatch.filter(methods.METHODS, pattern)
        names += [name for name in known or [methods.get(pattern).name] if name not in names]
    rows = [methods.get(name) for name in names]
    if options.dim < 0:
        raise ScalingError(f"dim must be at least 1, or 0 for the row's own; got {options.dim}")
    return [replace(r, projector=replace(r.projector, out=options.dim)) for r in rows] if options.dim else rows


def _worlds(options: Options) -> list[int]:
    try:
        worlds = sorted({int(part) for part in options.ranks.split(",")})
    except ValueError as error:
        raise ScalingError(f"ranks must be whole numbers with commas between them, got {options.ranks!r}") from error
    if worlds[0] < 1:
        raise ScalingError(f"ranks must be at least 1, got {worlds[0]}")
    return worlds


def _without(options: Options) -> tuple[str, ...]:
    names = tuple(part.strip() for part in options.without.split(",") if part.strip())
    unknown = [name for name in names if name not in PURPOSES]
    if unknown:
        raise ScalingError(f"without: unknown {unknown[0]!r}; there are {', '.join(PURPOSES)}")
    return names


def _clusters(options: Options) -> dict[str, Cluster]:
    inner = link(options.inner)
    names = [part.strip() for part in options.links.split(",")]
    return {name: Cluster(inner, link(name), options.per_node, options.algorithm) for name in names}


def _check(options: Options, clusters: dict[str, Cluster], worlds: Sequence[int]) -> None:
    positive = {
        "batch": options.batch, "images-per-second": options.images_per_second, "tflops": options.tflops,
        "width": options.width,
    }  # fmt: skip
    for name, value in positive.items():
        if not 0 < value < math.inf:
            raise ScalingError(f"{name} must be a number above 0, got {value}")
    for name, count in (("global-batch", options.global_batch), ("local-crops", options.local_crops)):
        if count < 0:
            raise ScalingError(f"{name} must be at least 0, got {count}")
    for world in worlds:
        next(iter(clusters.values())).shape(world)


def _head(options: Options) -> list[str]:
    images = f"{options.global_batch} images in all" if options.global_batch else f"{options.batch} images a process"
    return [
        f"{options.backbone}, {images}, {options.images_per_second:g} images/s a process alone, nodes of "
        f"{options.per_node} ({options.inner}), {options.device}"
        + (f", as if {options.without} took no time" if options.without else "")
    ]


def table(records: Sequence[dict[str, Any]], links: Sequence[str]) -> list[str]:
    """Bytes and calls at the largest number of processes; by link, efficiency, where it stays below half, and why."""
    from siamscope.workflow.scaling.curves import half_from, reason

    largest = max(r["processes"] for r in records)
    shown = [world for world in SHOWN if any(r["processes"] == world for r in records)] or [largest]
    head = ["method", *(f"{name} MB" for name in PURPOSES), "calls", "held GB"]
    first = next(iter(links))
    out = [f"a process sends in a step at {largest} processes, and holds of others' embeddings:"]
    body = []
    for name in dict.fromkeys(r["method"] for r in records):
        last = _of(records, name, first)[-1]
        mega = [f"{last['bytes'][purpose] / 1e6:.1f}" for purpose in PURPOSES]
        body.append([name, *mega, str(last["calls"]), f"{last['held_bytes'] / 1e9:.2f}"])
    out += [*_aligned([head, *body]), ""]
    for link_name in links:
        head = ["method", *(f"at {world}" for world in shown), "below 50 %", "waits longest for"]
        body = []
        for name in dict.fromkeys(r["method"] for r in records):
            mine = _of(records, name, link_name)
            by = {r["processes"]: r for r in mine}
            half = half_from(mine)
            cells = [f"{100 * by[world]['efficiency']:.0f} %" if world in by else "-" for world in shown]
            body.append([name, *cells, f"from {half}" if half else "never", reason(mine[-1])])
        out += [f"efficiency, {link_name} between nodes:", *_aligned([head, *body]), ""]
    return out[:-1]


def _of(records: Sequence[dict[str, Any]], method: str, link_name: str) -> list[dict[str, Any]]:
    return [r for r in records if r["method"] == method and r["link"] == link_name]


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(wide) - 1
    return [
        "  ".join(
            cell.ljust(w) if k in (0, last) else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]


def _written(options: Options, records: list[dict[str, Any]], facts: dict[str, Any]) -> list[Path]:
    from siamscope.report.dynamics_style import write
    from siamscope.report.scaling_figure import write_scaling

    assert options.out is not None
    text = told([], [], facts, as_json=True).text
    header = ["method", "link", "processes", "images", *(f"{name} bytes" for name in PURPOSES), "calls", "held_bytes",
              "step_seconds", *(f"{name} seconds" for name in records[0]["waits"]), "efficiency"]  # fmt: skip
    body = [
        [r["method"], r["link"], r["processes"], r["images"], *r["bytes"].values(), r["calls"], r["held_bytes"],
         r["step_seconds"], *r["waits"].values(), r["efficiency"]]
        for r in records
    ]  # fmt: skip
    return [
        write(options.out / "scaling.json", text + "\n"),
        save_table(options.out, "scaling", header, body),
        write_scaling(records, options.out / "scaling.png"),
    ]


def _plain(options: Options) -> dict[str, Any]:
    return {k: v for k, v in vars(options).items() if k not in ("out", "json")} | {
        "seconds_and_bytes_per_second": {name: (by.latency, by.bandwidth) for name, by in LINKS.items()}
    }
