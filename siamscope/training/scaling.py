"""How a step scales over processes: latency and bytes of its collective calls against the speed of the links.

A message of m bytes takes latency + m / bandwidth. Collectives go by the rules of Thakur, Rabenseifner & Gropp 2005
(ring, recursive halving and doubling), on two levels: inside a node, and between nodes, where the processes of a node
share its link. Without torch. Every figure is of an idle network: no contention, no stragglers, no start of a kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Purpose = Literal["gradients", "embeddings", "statistics", "batch norm"]
Kind = Literal["all_reduce", "all_gather", "reduce_scatter"]
Algorithm = Literal["mixed", "ring", "log"]


class ScalingError(ValueError):
    """A link, a number of processes or a speed that has no meaning; the message says which."""


@dataclass(frozen=True)
class Exchange:
    """`times` equal collective calls of a step.

    size: bytes that a process gives: the tensor of an all-reduce, its own part of an all-gather, and of a
    reduce-scatter the tensor of all parts.  phase: when the process waits for it, `after` being after the backward.
    """

    purpose: Purpose
    kind: Kind
    phase: Literal["forward", "backward", "after"]
    size: int
    times: int = 1

    def sent(self, world: int) -> float:
        """Bytes that a process sends for one call, the least possible: 2 (N-1)/N S, (N-1) S or (N-1)/N S."""
        factor = {"all_reduce": 2 * (world - 1) / world, "all_gather": world - 1, "reduce_scatter": (world - 1) / world}
        return self.size * factor[self.kind]


@dataclass(frozen=True)
class Link:
    """latency: seconds a message.  bandwidth: bytes a second, each way."""

    latency: float
    bandwidth: float

    def __post_init__(self) -> None:
        if not (0 <= self.latency < math.inf and self.bandwidth > 0):
            raise ScalingError("a link needs a latency of at least 0 and a bandwidth above 0")


LINKS = {
    "nvlink": Link(3e-6, 450e9),
    "pcie4": Link(5e-6, 25e9),
    "ib400": Link(5e-6, 50e9),
    "ib100": Link(5e-6, 12.5e9),
    "eth100": Link(20e-6, 12.5e9),
    "eth25": Link(30e-6, 3.125e9),
    "eth10": Link(40e-6, 1.25e9),
}
"""Line rates, and latencies of a collective's message that are typical, not measured here."""


def link(name: str) -> Link:
    """A link of `LINKS`, or 'GBITS:MICROSECONDS'.

    Raises:
        ScalingError: neither.
    """
    if name in LINKS:
        return LINKS[name]
    rate, _, latency = name.partition(":")
    try:
        return Link(float(latency) * 1e-6, float(rate) * 1e9 / 8)
    except ValueError as error:
        known = ", ".join(LINKS)
        raise ScalingError(f"unknown link {name!r}; known: {known}; or GBITS:MICROSECONDS, as 100:5") from error


@dataclass(frozen=True)
class Cluster:
    """Nodes of `per_node` processes; `inner` joins the processes of a node, `outer` is a node's link to the others.

    `mixed`: all-reduce with a logarithmic number of rounds, the others by ring, as NCCL does; `ring`, `log`: all calls.
    """

    inner: Link
    outer: Link
    per_node: int = 8
    algorithm: Algorithm = "mixed"

    def __post_init__(self) -> None:
        if self.per_node < 1:
            raise ScalingError(f"a node needs at least 1 process, got {self.per_node}")

    def seconds(self, exchange: Exchange, world: int) -> float:
        """Of one call. Between nodes each process of a node speaks with its like, and they share the node's link."""
        group, nodes = self.shape(world)
        whole = exchange.size * world if exchange.kind == "all_gather" else exchange.size
        log = self.algorithm == "log" or (self.algorithm == "mixed" and exchange.kind == "all_reduce")
        ways = 2 if exchange.kind == "all_reduce" else 1
        inside = _half(self.inner, group, whole, log)
        # A process's share of the bytes and of the link's speed: both 1 / group.
        between = _half(self.outer, nodes, whole, log)
        return ways * (inside + between)

    def shape(self, world: int) -> tuple[int, int]:
        """Processes in a node, and nodes.

        Raises:
            ScalingError: no whole nodes.
        """
        if world < 1 or (world > self.per_node and world % self.per_node):
            raise ScalingError(f"{world} processes do not fill nodes of {self.per_node}")
        return (world, 1) if world <= self.per_node else (self.per_node, world // self.per_node)


def _half(by: Link, members: int, size: float, log: bool) -> float:
    """A reduce-scatter, or an all-gather, of `size` bytes in all among `members`."""
    rounds = math.ceil(math.log2(members)) if log else members - 1
    return rounds * by.latency + (members - 1) / members * size / by.bandwidth


@dataclass(frozen=True)
class Step:
    """Seconds of a step: all of it, its computation, and what it waits for by purpose of the call."""

    seconds: float
    compute: float
    waits: dict[Purpose, float]


FORWARD = 1 / 3
"""The share of a step's computation that is its forward pass."""


def step(found: Sequence[Exchange], world: int, compute: float, cluster: Cluster) -> Step:
    """A step of `compute` seconds of computation, whose backward overlaps the all-reduce of gradients.

    Buckets of gradients become ready at equal distances in the backward and travel one after the other. All other calls
    are waited for, and one network carries everything in order, as NCCL's stream does: a waited call queues behind the
    buckets before it.
    """
    waits: dict[Purpose, float] = dict.fromkeys(("gradients", "embeddings", "statistics", "batch norm"), 0.0)
    if world == 1:
        return Step(compute, compute, waits)
    for e in found:
        if e.phase != "backward":
            waits[e.purpose] += e.times * cluster.seconds(e, world)
    backward = (1 - FORWARD) * compute
    now = sent = done = 0.0  # time; when the network is free; share of the backward that is computed
    for place, e in _backward(found):
        now, done = now + (place - done) * backward, place
        lasts = cluster.seconds(e, world)
        begins = max(now, sent)
        sent = begins + lasts
        if e.purpose != "gradients":
            waits["gradients"] += begins - now
            waits[e.purpose] += lasts
            now = sent
    now += (1 - done) * backward
    waits["gradients"] += max(sent - now, 0.0)
    return Step(compute + sum(waits.values()), compute, waits)


def _backward(found: Sequence[Exchange]) -> list[tuple[float, Exchange]]:
    """The calls of the backward and where in its computation (0 to 1) they are made; the loss's own come first."""
    calls = [e for e in found if e.phase == "backward" for _ in range(e.times)]
    norms = [e for e in calls if e.purpose == "batch norm"]
    gradients = [e for e in calls if e.purpose == "gradients"]
    places = [(0.0, e) for e in calls if e.purpose in ("embeddings", "statistics")]
    places += [((k + 0.5) / len(norms), e) for k, e in enumerate(norms)]
    places += [((k + 1) / len(gradients), e) for k, e in enumerate(gradients)]
    return sorted(places, key=lambda place: place[0])
