"""The page docs/results/performance.md from the JSON: aims, what was measured, and everything behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from peers_.parts import LIBRARIES, ratio

Found = dict[str, Any]
NAMES = {"siamscope": "siamscope", "lightly": "lightly", "spt": "stable-pretraining", "pil": "the Pillow loop"}


def best(found: Found) -> str:
    """siamscope's faster step, eager or compiled."""
    ours = [name for name in found if name.startswith("siamscope")]
    return max(ours, key=lambda name: float(found[name]["rate"]))


@dataclass(frozen=True)
class Over:
    """How many times faster `ours` (if empty, siamscope's faster step) is than `other` in parts[part][key]."""

    part: str
    key: str
    other: str
    ours: str = ""

    def found(self, parts: dict[str, Found]) -> Found:
        return parts[self.part][self.key] if self.key else parts[self.part]

    def compiled(self, parts: dict[str, Found]) -> bool:
        return not self.ours and best(self.found(parts)) == "siamscope compiled"

    def eager(self, parts: dict[str, Found]) -> float:
        return ratio(self.found(parts), "siamscope", self.other)

    def __call__(self, parts: dict[str, Found]) -> float:
        found = self.found(parts)
        return ratio(found, self.ours or best(found), self.other)


AIMS: tuple[tuple[str, str, str, float, str, Callable[[dict[str, Found]], float]], ...] = (
    ("views", "two views of 32 px, fast", "times lightly", 20, ">=", Over("views", "", "lightly", "siamscope fast")),
    ("views", "two views of 32 px, exact", "times lightly", 6, ">=", Over("views", "", "lightly", "siamscope exact")),
    ("end", "end to end, ResNet-18, batch 64", "times lightly", 3, ">=", Over("end", "resnet18", "lightly")),
    ("end", "end to end, ResNet-18, batch 64", "times stable-pretraining", 3, ">=", Over("end", "resnet18", "spt")),
    ("end", "end to end, ResNet-8, batch 256", "times the Pillow loop", 3, ">=", Over("end", "resnet8", "pil")),
    ("knn", "k-NN, 10,000 × 50,000 × 512", "times lightly", 2.5, ">=", Over("knn", "", "lightly", "siamscope")),
    ("knn", "k-NN, votes that differ and are no ties", "", 0, "<=", lambda parts: parts["knn"]["votes"]["no_ties"]),
    ("probe", "linear probe, 50,000 × 512", "times scikit-learn", 5, ">=", lambda parts: reference(parts)["ratio"]),
    (
        "probe", "linear probe, accuracy apart", "points", 0.1, "<=",
        lambda parts: 100 * abs(reference(parts)["top1"] - parts["probe"]["siamscope"]["top1"]),
    ),
    ("start", "second start, 60,000 files", "s", 2, "<=", lambda parts: parts["start"]["second"]["process_wall"]),
    ("start", "`siamscope --help`", "s CPU", 0.3, "<=", lambda parts: parts["start"]["help"]["cpu"]),
    ("size", "packages beside torch's own", "", 20, "<=", lambda parts: parts["size"]["siamscope"]["packages"]),
    ("parity", "losses apart, largest share", "", 1e-5, "<=", lambda parts: parts["parity"]["largest"]),
)  # fmt: skip


def reference(parts: dict[str, Found]) -> Found:
    """scikit-learn's probe with the loosest tolerance with which it finds its best accuracy."""
    rows = [row for name, row in parts["probe"].items() if name.startswith("sklearn")]
    top: float = max(row["top1"] for row in rows)
    return min((row for row in rows if row["top1"] == top), key=lambda row: float(row["seconds"]))


def verdict(value: float, bound: float, sign: str) -> str:
    if value >= bound if sign == ">=" else value <= bound:
        return "met"
    return f"**missed** by {100 * abs(value - bound) / bound:.0f} %" if bound else "**missed**"


def aims(parts: dict[str, Found], judged: bool) -> list[str]:
    """A line a measure; the aims are those of a two-core CPU, so elsewhere nothing is `judged`. What holds of the
    compiled step only says so, with the eager step's ratio beside it."""
    lines = (
        ["| measure | aim | measured | |", "|---|---|---|---|"] if judged else ["| measure | measured |", "|---|---|"]
    )
    for part, measure, unit, bound, sign, figure in AIMS:
        aim = f"{'at least' if sign == '>=' else 'at most'} {bound:g} {unit}".strip()
        if part not in parts:
            lines.append(f"| {measure} | {aim} | | not measured |" if judged else f"| {measure} | not measured |")
            continue
        value = figure(parts)
        name, shown, said = measure, f"{value:.3g} {unit}".rstrip(), verdict(value, bound, sign)
        if isinstance(figure, Over) and figure.compiled(parts):
            eager = figure.eager(parts)
            name += ", compiled, without the time of compiling"
            shown += f" (eager {eager:.3g})"
            alone = verdict(eager, bound, sign)
            said += "" if alone == said else f"; eager {alone}"
        lines.append(f"| {name} | {aim} | {shown} | {said} |" if judged else f"| {name} | {shown} |")
    return lines


def speeds(title: str, found: Found, per: str) -> list[str]:
    """Images a second (`per`: and core) of each side, what siamscope gains, and the most memory. siamscope in bf16
    with channels last unless it says float32; the others in float32."""
    ours = best(found)
    memory = any("peak_mb" in row for row in found.values())
    lines = [f"| {title} | images/s{per} | {ours} over it |" + (" most memory, MB |" if memory else "")]
    lines.append("|---|---|---|" + ("---|" if memory else ""))
    for name, row in found.items():
        first, _, more = name.partition(" ")
        shown = f"{NAMES[first]} {more}".strip()
        lines.append(
            f"| {shown} | {row['rate']:,.1f} | {ratio(found, ours, name):g} |"
            + (f" {row['peak_mb']:,.0f} |" if memory else "")
        )
    return lines


def rest(parts: dict[str, Found], cpu: bool) -> list[str]:
    """The figures behind the aims."""
    out: list[str] = []
    per, seconds = ("/core", "seconds of one core") if cpu else ("", "seconds")
    if "views" in parts:
        out += ["", *speeds("views", parts["views"], per)]
    if "step" in parts:
        out += ["", *speeds("step only, ResNet-18, batch 64", parts["step"]["resnet18"], per)]
    if "end" in parts:
        out += ["", *speeds("end to end, ResNet-18, batch 64", parts["end"]["resnet18"], per)]
        out += ["", *speeds("end to end, ResNet-8, batch 256", parts["end"]["resnet8"], per)]
    if "knn" in parts:
        out += ["", f"| k-NN, k = 200 | {seconds} |", "|---|---|"]
        out += [f"| {NAMES[name]} | {parts['knn'][name]['seconds']:.2f} |" for name in LIBRARIES]
        votes = parts["knn"]["votes"]
        out += [
            "",
            f"{votes['differ']} of {votes['queries']:,} predictions differ from lightly's; {votes['no_ties']} of these",
            f"are no ties in float64, whose prediction is ours in {votes['first_as_float64']} of them and lightly's in",
            f"{votes['second_as_float64']}. stable-pretraining weighs votes otherwise: its time only.",
        ]
    if "probe" in parts:
        where = seconds if cpu else "seconds (siamscope on the GPU, scikit-learn on one core)"
        out += ["", f"| linear probe, seven penalties | {where} | test accuracy | converged | penalty |"]
        out += ["|---|---|---|---|---|"]
        for name, row in parts["probe"].items():
            first, _, tolerance = name.partition(" ")
            shown = f"scikit-learn, float32, warm starts, tolerance {tolerance}" if tolerance else first
            done = "yes" if row["converged"] else "no"
            cells = f"{row['seconds']:.1f} | {100 * row['top1']:.2f} % | {done} | {row['l2']:g}"
            out.append(f"| {shown} | {cells} |")
    if "size" in parts:
        out += ["", "| | packages beside torch's own | import, CPU seconds beyond torch's |", "|---|---|---|"]
        for name in LIBRARIES:
            row = parts["size"][name]
            out.append(f"| {NAMES[name]} | {row['packages']} | {row['import_beyond_torch']:.2f} |")
    if "parity" in parts:
        out += ["", "| loss, library | ours | theirs | apart, as a share |", "|---|---|---|---|"]
        for name, row in parts["parity"]["losses"].items():
            out.append(f"| {name} | {row['ours']:.6f} | {row['theirs']:.6f} | {row['apart']:.0e} |")
        said = (
            "stable-pretraining standardises for Barlow Twins by the unbiased deviation: compared on features made so."
        )
        out += ["", said]
    if "accuracy" in parts:
        found = parts["accuracy"]
        title = f"{found['epochs']} epochs of {found['images']:,} images of {found['data']}, ResNet-8, batch 64"
        out += ["", f"| {title} | k-NN (k = 20) | {'CPU seconds' if cpu else 'seconds'} |", "|---|---|---|"]
        out.append(f"| untrained | {100 * found['untrained']['knn']:.1f} % | |")
        for name in LIBRARIES:
            out.append(f"| {NAMES[name]} | {100 * found[name]['knn']:.1f} % | {found[name]['seconds']:.0f} |")
    return out


def page(result: dict[str, Any]) -> str:
    """The whole page."""
    parts = {name: row["found"] for name, row in result["parts"].items()}
    if not parts:
        raise SystemExit("nothing has been measured yet: run without --table first")
    latest = max(result["parts"].values(), key=lambda row: row["date"])
    machine, versions = latest["machine"], latest["versions"]
    named = [f"{name} {version}" for packages in versions.values() for name, version in packages.items()]
    days = sorted({row["date"][:10] for row in result["parts"].values()})
    loads = [row["load"][0] for row in result["parts"].values() if row["load"]]
    instructions = ", ".join(machine["instructions"]) or "no AVX-512"
    cpu, device = machine["device"] == "cpu", machine.get("gpu") or machine["device"]
    written = "python benchmarks/peers.py --table docs/results/performance.md"
    head = [
        "# Performance",
        "",
        f"Down to the notes written by `{written}` from",
        "[peers.json](../../benchmarks/results/peers.json). Ratios: medians over rounds that take turns;",
        "images/s/core is by processor time of one thread, without loader processes. siamscope computes in the format",
    ]
    if not cpu:
        written = "python benchmarks/peers.py --device cuda --table docs/results/performance-gpu.md"
        head = [
            "# Performance on a GPU",
            "",
            f"Down to the notes written by `{written}` from",
            "[peers-cuda.json](../../benchmarks/results/peers-cuda.json). Ratios: medians over rounds that take turns;",
            f"images/s is by the wall clock. The other sides make their views in {machine['workers']} loader",
            "processes; a clock starts when what these made ahead is used up. The aims are set for two cores of a CPU:",
            "here their measures are given and nothing is judged. siamscope computes in the format",
        ]
    return "\n".join([
        *head,
        "that its probe chose for this machine, beside a row in float32; the others in float32, as in their examples.",
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']} ({instructions}), {device}; Python",
        f"{machine['python']}; {', '.join(dict.fromkeys(named))}.",
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; load when a part began",
        f"{min(loads, default=0):g} to {max(loads, default=0):g}. Command: `{latest['command'].split(' --parts')[0]}`.",
        "",
        *aims(parts, cpu),
        *rest(parts, cpu),
        "",
    ])  # fmt: skip
