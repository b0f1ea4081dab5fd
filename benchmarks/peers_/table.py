"""The page docs/results/performance.md from the JSON: aims, what was measured, and everything behind it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peers_.parts import LIBRARIES, ratio

Found = dict[str, Any]
NAMES = {"siamscope": "siamscope", "lightly": "lightly", "spt": "stable-pretraining", "pil": "the Pillow loop"}


def best(found: Found) -> str:
    """siamscope's faster step, eager or compiled."""
    ours = [name for name in found if name.startswith("siamscope")]
    return max(ours, key=lambda name: float(found[name]["rate"]))


def over(part: str, key: str | None, other: str, ours: str = "") -> Callable[[dict[str, Found]], float]:
    def figure(parts: dict[str, Found]) -> float:
        found = parts[part][key] if key else parts[part]
        return ratio(found, ours or best(found), other)

    return figure


AIMS: tuple[tuple[str, str, str, float, str, Callable[[dict[str, Found]], float]], ...] = (
    ("views", "two views of 32 px, fast", "times lightly", 20, ">=", over("views", None, "lightly", "siamscope fast")),
    ("views", "two views of 32 px, exact", "times lightly", 6, ">=", over("views", None, "lightly", "siamscope exact")),
    ("end", "end to end, ResNet-18, batch 64", "times lightly", 3, ">=", over("end", "resnet18", "lightly")),
    ("end", "end to end, ResNet-18, batch 64", "times stable-pretraining", 3, ">=", over("end", "resnet18", "spt")),
    ("end", "end to end, ResNet-8, batch 256", "times the Pillow loop", 3, ">=", over("end", "resnet8", "pil")),
    ("knn", "k-NN, 10,000 × 50,000 × 512", "times lightly", 2.5, ">=", over("knn", None, "lightly", "siamscope")),
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


def aims(parts: dict[str, Found]) -> list[str]:
    lines = ["| measure | aim | measured | |", "|---|---|---|---|"]
    for part, measure, unit, bound, sign, figure in AIMS:
        aim = f"{'at least' if sign == '>=' else 'at most'} {bound:g} {unit}".strip()
        if part not in parts:
            lines.append(f"| {measure} | {aim} | | not measured |")
            continue
        value = figure(parts)
        met = value >= bound if sign == ">=" else value <= bound
        short = f"**missed** by {100 * abs(value - bound) / bound:.0f} %" if bound else "**missed**"
        lines.append(f"| {measure} | {aim} | {value:.3g} {unit}".rstrip() + f" | {'met' if met else short} |")
    return lines


def speeds(title: str, found: Found) -> list[str]:
    """Images a second and core of each side, what siamscope gains, and the most memory. siamscope in bf16 with channels
    last unless it says float32; the others in float32."""
    ours = best(found)
    memory = any("peak_mb" in row for row in found.values())
    lines = [f"| {title} | images/s/core | {ours} over it |" + (" most memory, MB |" if memory else "")]
    lines.append("|---|---|---|" + ("---|" if memory else ""))
    for name, row in found.items():
        first, _, more = name.partition(" ")
        shown = f"{NAMES[first]} {more}".strip()
        lines.append(
            f"| {shown} | {row['rate']:,.1f} | {ratio(found, ours, name):g} |"
            + (f" {row['peak_mb']:,.0f} |" if memory else "")
        )
    return lines


def rest(parts: dict[str, Found]) -> list[str]:
    """The figures behind the aims."""
    out: list[str] = []
    if "views" in parts:
        out += ["", *speeds("views", parts["views"])]
    if "step" in parts:
        out += ["", *speeds("step only, ResNet-18, batch 64", parts["step"]["resnet18"])]
    if "end" in parts:
        out += ["", *speeds("end to end, ResNet-18, batch 64", parts["end"]["resnet18"])]
        out += ["", *speeds("end to end, ResNet-8, batch 256", parts["end"]["resnet8"])]
    if "knn" in parts:
        out += ["", "| k-NN, k = 200 | seconds of one core |", "|---|---|"]
        out += [f"| {NAMES[name]} | {parts['knn'][name]['seconds']:.2f} |" for name in LIBRARIES]
        votes = parts["knn"]["votes"]
        out += [
            "",
            f"{votes['differ']} of {votes['queries']:,} predictions differ from lightly's; {votes['no_ties']} of these",
            f"are no ties in float64, whose prediction is ours in {votes['first_as_float64']} of them and lightly's in",
            f"{votes['second_as_float64']}. stable-pretraining weighs votes otherwise: its time only.",
        ]
    if "probe" in parts:
        out += ["", "| linear probe, seven penalties | seconds of one core | test accuracy | converged | penalty |"]
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
        out += ["", f"| {title} | k-NN (k = 20) | CPU seconds |", "|---|---|---|"]
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
    return "\n".join([
        "# Performance",
        "",
        "Down to the notes written by `python benchmarks/peers.py --table docs/results/performance.md` from",
        "[peers.json](../../benchmarks/results/peers.json). Ratios: medians over rounds that take turns;",
        "images/s/core is by processor time of one thread, without loader processes. siamscope computes in the format",
        "that its probe chose for this machine, beside a row in float32; the others in float32, as in their examples.",
        "",
        f"Machine: {machine['cores']} cores of {machine['cpu']} ({instructions}), {machine['device']}; Python",
        f"{machine['python']}; {', '.join(dict.fromkeys(named))}.",
        f"{' to '.join(dict.fromkeys((days[0], days[-1])))}; load when a part began",
        f"{min(loads, default=0):g} to {max(loads, default=0):g}. Command: `{latest['command'].split(' --parts')[0]}`.",
        "",
        *aims(parts),
        *rest(parts),
        "",
    ])  # fmt: skip
