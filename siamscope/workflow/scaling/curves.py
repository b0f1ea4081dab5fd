"""Efficiency of a method's step at every number of processes, as records for tables and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from siamscope.row import Method
from siamscope.training import scaling, traffic
from siamscope.training.scaling import Cluster
from siamscope.training.traffic import NetworkSize

PRODUCTS = "loss"
"""The wait for products of the loss that grow with the whole batch."""
HALF = 0.5


@dataclass(frozen=True)
class Setting:
    """What is held fixed: images a process (weak scaling) or of all (`whole` > 0, strong), and a device's speeds.

    images_per_second: of one process training alone.  flops: operations a second in the loss's float32 products.
    without: purposes whose calls take no time, to see what would stop the scaling next.
    """

    batch: int
    whole: int
    images_per_second: float
    flops: float
    device: str
    without: tuple[str, ...] = ()

    def share(self, world: int) -> int | None:
        """Images of a process; None where the batch cannot be shared."""
        if not self.whole:
            return self.batch
        return None if self.whole % world else self.whole // world


def curve(net: NetworkSize, link: str, cluster: Cluster, worlds: Sequence[int], at: Setting) -> list[dict[str, Any]]:
    """One record for each number of processes; those that cannot share the batch are left out."""
    out = []
    for world in worlds:
        batch = at.share(world)
        if batch is None:
            continue
        found = traffic.exchanges(net, world, batch, device=at.device)
        alone = batch / at.images_per_second
        products = traffic.replicated_seconds(net, world, batch, at.flops)
        timed = [e for e in found if e.purpose not in at.without]
        step = scaling.step(timed, world, alone + products, cluster)
        waits = {str(purpose): seconds for purpose, seconds in step.waits.items()} | {PRODUCTS: products}
        out.append({
            "method": net.row.name, "objective": net.row.objective, "link": link, "processes": world, "images": batch,
            "bytes": {**traffic.total(found, world)}, "calls": sum(e.times for e in found),
            "held_bytes": traffic.held(net, world, batch), "step_seconds": step.seconds, "waits": waits,
            "efficiency": alone / step.seconds, "images_per_second": world * batch / step.seconds,
        })  # fmt: skip
    return out


def half_from(records: Sequence[dict[str, Any]]) -> int | None:
    """The least number of processes from which on the efficiency stays below one half."""
    below = None
    for record in reversed(records):
        if record["efficiency"] >= HALF:
            break
        below = record["processes"]
    return below


def reason(record: dict[str, Any]) -> str:
    """What a step waits for longest."""
    waits: dict[str, float] = record["waits"]
    longest = max(waits, key=lambda name: waits[name])
    return longest if waits[longest] > 0 else "nothing"


def too_small_bank(row: Method, records: Sequence[dict[str, Any]]) -> str | None:
    """A note if the memory bank holds fewer keys than a step brings."""
    keys = [r["processes"] for r in records if row.bank and 2 * r["processes"] * r["images"] > row.bank]
    if not keys:
        return None
    return f"{row.name}: its bank of {row.bank:,} keys holds less than a step brings from {keys[0]} processes on"
