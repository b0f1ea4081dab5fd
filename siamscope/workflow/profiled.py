"""`--profile`: where the time of a run's steps went, in words (profile.txt), as figures (profile.json) and as a trace
that Chrome and Perfetto draw (trace.json)."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from siamscope.recipe import Recipe
from siamscope.rundir import RunDir, RunError, write_text
from siamscope.training.distributed import World
from siamscope.training.profile import BETWEEN, Profile, Spans
from siamscope.training.step import Trainer

OTHER = "other"


@contextlib.contextmanager
def profiled(
    run: RunDir, recipe: Recipe, trainer: Trainer, start: int, here: World, detailed: int | None
) -> Iterator[None]:
    """Profile the steps that are made inside, `detailed` of them with torch's operators; None: do nothing.

    However the steps end, rank 0 writes the three files; if they end in order, with the times of all processes.
    """
    if detailed is None:
        yield
        return
    profile = Profile(start, trainer.steps, detailed, here.device, operators=here.first)
    profile.attach(trainer.model)
    trainer.spans = profile
    try:
        yield
    except BaseException:
        with contextlib.suppress(RunError):  # the error that ended the run is the one to tell
            write(run, recipe, profile, [], here)
        raise
    finally:
        profile.finish()
        trainer.spans = Spans()
    write(run, recipe, profile, here.all_said(own(profile, here)), here)


def write(run: RunDir, recipe: Recipe, profile: Profile, ranks: Sequence[Mapping[str, Any]], here: World) -> None:
    """The three files, by rank 0."""
    if not here.first:
        return
    profile.finish()
    found = summary(profile, recipe, ranks)
    run.write_json(run.path / "profile.json", found)
    write_text(run.path / "profile.txt", words(found))
    write_text(run.path / "trace.json", json.dumps(profile.trace(), separators=(",", ":")))


def parts(profile: Profile) -> list[dict[str, Any]]:
    """The spans of a step by falling time: name, milliseconds a step, share, calls a step, the same of those inside.

    What every step does is of the settled steps (of all, if none has settled), what only some do of all steps. What no
    span covers is `other`; so the shares are those of a whole step and add up to 1.
    """
    inner, every = profile.settled if profile.settled.steps else profile.everything, profile.everything
    if not inner.steps:
        return []
    found: dict[str, dict[str, Any]] = {}
    for path in sorted({*inner.milliseconds, *every.milliseconds}, key=lambda path: path.count("/")):
        above, _, name = path.rpartition("/")
        totals = every if path.split("/")[0] in BETWEEN else inner
        if not totals.calls.get(path):
            continue
        found[path] = {
            "name": name,
            "ms": totals.milliseconds[path] / totals.steps,
            "calls": totals.calls[path] / totals.steps,
            "inside": [],
        }
        if above in found:
            found[above]["inside"].append(found[path])
    tops = [found[path] for path in found if "/" not in path]
    covered = sum(time for path, time in inner.milliseconds.items() if "/" not in path)
    tops.append({"name": OTHER, "ms": max(inner.wall - covered, 0.0) / inner.steps, "calls": 1.0, "inside": []})
    total = sum(part["ms"] for part in tops)
    for part in found.values():
        part["share"] = part["ms"] / total
        part["inside"].sort(key=lambda below: -below["ms"])
    tops[-1]["share"] = tops[-1]["ms"] / total
    return sorted(tops, key=lambda part: -part["ms"])


def own(profile: Profile, here: World) -> dict[str, Any]:
    """What a process says of itself: its step, and how long it works before it first meets the others."""
    found = {part["name"]: part["ms"] for part in parts(profile)}
    alone = sum(found.get(name, 0.0) for name in ("data", "views"))
    return {"rank": here.rank, "host": socket.gethostname(), "step_ms": sum(found.values()), "alone_ms": alone}


def summary(profile: Profile, recipe: Recipe, ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """All that profile.json holds; times in milliseconds a step."""
    spans = parts(profile)
    total = sum(part["ms"] for part in spans)
    return {
        "first_step": profile.first,
        "last_step": profile.last,
        "settled_steps": profile.settled.steps,
        "all_steps": profile.everything.steps,
        "warm_up_steps": profile.warm_up,
        "steps_with_operators": profile.detailed,
        "lost": profile.lost,
        "clock": "device" if profile.device.type == "cuda" else "host",
        "batch_size": recipe.train.batch_size,
        "accumulate": recipe.train.accumulate,
        "step_ms": total,
        "images_per_second": recipe.train.batch_size / total * 1e3 if total else None,
        "spans": spans,
        "largest": next((part["name"] for part in spans), None),
        "advice": advice({part["name"]: part["share"] for part in spans}, recipe),
        "processes": [dict(rank) for rank in ranks],
    }


def advice(shares: Mapping[str, float], recipe: Recipe) -> list[str]:
    """What to try, of what takes most to what takes least."""

    def share(*names: str) -> float:
        return sum(shares.get(name, 0.0) for name in names)

    train, cached = recipe.train, recipe.data.cache == "disk"
    tips: list[tuple[float, float, str]] = [
        (share("data"), 0.1,
         "the step waits for images: keep them in memory (--data.memory-budget-mb), a faster disk"
         + ("" if cached else ", decode once (--data.cache disk)") + " or more readers (--workers)"),
        (share("monitor"), 0.1, "measure more rarely (--monitor.interval) or fewer images (--monitor.samples, .bank)"),
        (share("alarm"), 0.05, "let the alarm look more rarely (--monitor.watch) or at less (--monitor.watch-samples)"),
        (share("checkpoint"), 0.05, "save more rarely (--train.checkpoint-minutes, .checkpoint-steps)"),
        (share("optimiser", "target"), 0.25, "the optimiser's cost is that of the weights: a larger batch spreads it"),
        (share(OTHER), 0.1, "the time between the spans is Python's: a larger batch spreads it"),
    ]  # fmt: skip
    if recipe.views.colour == "exact":
        tips.append((share("views"), 0.15, "colours in one pass: --views.colour fast"))
    slower = [
        word for word, so in (
            ("--train.precision bf16", train.precision == "fp32"),
            ("--train.channels-last on", train.channels_last == "off"),
            ("--train.compile on", train.compile == "off"),
        ) if so
    ]  # fmt: skip
    if slower:
        tips.append((share("forward", "backward"), 0.5, f"the network's arithmetic: {', '.join(slower)}, if they pay"))
    return [f"{text} [{100 * part:.0f} %]" for part, least, text in sorted(tips, reverse=True) if part > least]


def words(found: Mapping[str, Any]) -> str:
    """profile.txt."""
    if not found["spans"]:
        return "No step was made, so there is no time to tell of.\n"
    settled = found["settled_steps"]
    of = f"{settled} settled steps" if settled else f"{found['all_steps']} steps, none of them settled"
    where = "on the device, between events on its stream" if found["clock"] == "device" else "of the clock"
    lines = [
        f"Where the time of a step went: steps {found['first_step']} to {found['last_step']}, {of}, batch "
        f"{found['batch_size']}, time {where}.",
        "",
        f"{'':<16}{'ms a step':>12}{'share':>9}{'calls a step':>15}",
    ]
    for part in found["spans"]:
        lines.append(_line(part))
        lines += [_line(below, "  ") for below in part["inside"]]
    lines += [f"{'step':<16}{found['step_ms']:>12.2f}{100:>7.1f} %", ""]
    top = found["spans"][0]
    lines.append(
        f"{found['images_per_second']:.0f} images/s. The largest part is {top['name']}, {100 * top['share']:.0f} %."
    )
    lines += [f"Try: {tip}" for tip in found["advice"]]
    if len(found["processes"]) > 1:
        lines.append(_of_processes(found["processes"]))
    lines += [
        "",
        f"Left out: the first {found['warm_up_steps']} steps and {found['steps_with_operators']} whose operators were "
        "recorded, but for what only some steps do: that is of all.",
        "trace.json holds spans and operators; open it with ui.perfetto.dev or chrome://tracing.",
        *([found["lost"]] if found["lost"] else []),
    ]
    return "\n".join(lines) + "\n"


def _line(part: Mapping[str, Any], indent: str = "") -> str:
    name = indent + part["name"]
    return f"{name:<16}{part['ms']:>12.2f}{100 * part['share']:>7.1f} %{part['calls']:>15.3g}"


def _of_processes(processes: Sequence[Mapping[str, Any]]) -> str:
    slow, late = max(processes, key=lambda p: p["step_ms"]), max(processes, key=lambda p: p["alone_ms"])
    early = min(processes, key=lambda p: p["alone_ms"])
    return (
        f"{len(processes)} processes: the slowest step is rank {slow['rank']}'s on {slow['host']}, "
        f"{slow['step_ms']:.2f} ms; last to have its views is rank {late['rank']} on {late['host']}, after "
        f"{late['alone_ms']:.2f} ms, first rank {early['rank']}, after {early['alone_ms']:.2f} ms."
    )
