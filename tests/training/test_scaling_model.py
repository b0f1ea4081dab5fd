"""The simulator of a step among many processes: closed forms, limits, and collectives message by message."""

import math

import pytest

from siamscope.training.scaling import FORWARD, Cluster, Exchange, Link, ScalingError, link, step

SLOW = Link(latency=1e-3, bandwidth=1e6)
FAST = Link(latency=1e-5, bandwidth=1e8)
NODE = 4


def one_node(by: Link, algorithm: str) -> Cluster:
    return Cluster(by, by, per_node=4096, algorithm=algorithm)


def call(kind: str, size: int, purpose: str = "embeddings", phase: str = "forward", times: int = 1) -> Exchange:
    return Exchange(purpose, kind, phase, size, times)


def ring(world: int, size: float, by: Link) -> tuple[float, list[float], list[list[frozenset]]]:
    """All-reduce by ring, message by message: time, bytes each process sent, and whose numbers each chunk has summed.

    A process sends when its last message has left and the chunk that it passes on has come.
    """
    chunks = [[frozenset({rank}) for _ in range(world)] for rank in range(world)]
    came, free, sent = [0.0] * world, [0.0] * world, [0.0] * world
    for turn in range(2 * (world - 1)):
        messages = []
        for rank in range(world):
            chunk = (rank - turn) % world
            leaves = max(came[rank], free[rank])
            free[rank] = leaves + size / world / by.bandwidth
            sent[rank] += size / world
            messages.append(((rank + 1) % world, chunk, chunks[rank][chunk], free[rank] + by.latency))
        for rank, chunk, content, at in messages:
            chunks[rank][chunk] = content | chunks[rank][chunk] if turn < world - 1 else content
            came[rank] = max(came[rank], at)
    return max(came), sent, chunks


def halving(world: int, size: float, by: Link) -> tuple[float, list[float], list[list[frozenset]]]:
    """The same by recursive halving and doubling, for powers of two."""
    chunks = [[frozenset({rank}) for _ in range(world)] for rank in range(world)]
    mine = [range(world)] * world
    clock, sent = [0.0] * world, [0.0] * world
    rounds = [world >> k for k in range(1, world.bit_length())]
    for distance, reducing in [(d, True) for d in rounds] + [(d, False) for d in reversed(rounds)]:
        before, arrives = [list(c) for c in chunks], list(clock)
        held = list(mine)
        for rank in range(world):
            other = rank ^ distance
            if reducing:
                keep = [c for c in held[rank] if (c & distance) == (rank & distance)]
                gives = [c for c in held[rank] if c not in keep]
                mine[rank] = keep
            else:
                gives = list(held[rank])
                mine[rank] = sorted({*held[rank], *held[other]})
            lasts = by.latency + len(gives) * size / world / by.bandwidth
            arrives[other] = max(arrives[other], clock[rank] + lasts)
            sent[rank] += len(gives) * size / world
            for c in gives:
                chunks[other][c] = before[rank][c] | before[other][c] if reducing else before[rank][c]
        clock = [max(a, b) for a, b in zip(arrives, clock, strict=True)]
    return max(clock), sent, chunks


@pytest.mark.parametrize(("by_messages", "algorithm"), [(ring, "ring"), (halving, "log")])
@pytest.mark.parametrize("world", [2, 4, 8, 32])
@pytest.mark.parametrize("by", [SLOW, FAST])
def test_all_reduce_message_by_message(by_messages, algorithm, world, by):
    """Everyone ends with everyone's sum, after the time and the bytes of the closed form."""
    size = 96_000
    seconds, sent, chunks = by_messages(world, size, by)
    everyone = frozenset(range(world))
    assert all(chunk == everyone for rank in chunks for chunk in rank)
    exchange = call("all_reduce", size)
    assert one_node(by, algorithm).seconds(exchange, world) == pytest.approx(seconds, rel=1e-12)
    assert sent == pytest.approx([exchange.sent(world)] * world, rel=1e-12)
    other = "log" if algorithm == "ring" else "ring"
    assert world == 2 or one_node(by, other).seconds(exchange, world) != pytest.approx(seconds, rel=1e-3)


def test_ring_in_closed_form():
    """2 (N-1) (latency + S / (N B)); all-gather (N-1) (latency + s / B); reduce-scatter half of an all-reduce."""
    n, size = 16, 1_600_000
    cluster = one_node(SLOW, "ring")
    assert cluster.seconds(call("all_reduce", size), n) == pytest.approx(2 * 15 * (1e-3 + size / 16 / 1e6))
    assert cluster.seconds(call("all_gather", size), n) == pytest.approx(15 * (1e-3 + size / 1e6))
    assert 2 * cluster.seconds(call("reduce_scatter", size), n) == pytest.approx(
        cluster.seconds(call("all_reduce", size), n)
    )


def test_nodes_of_one_are_one_ring():
    alone = Cluster(FAST, SLOW, per_node=1, algorithm="ring")
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        assert alone.seconds(call(kind, 4096), 8) == pytest.approx(one_node(SLOW, "ring").seconds(call(kind, 4096), 8))


@pytest.mark.parametrize("kind", ["all_reduce", "all_gather", "reduce_scatter"])
@pytest.mark.parametrize("algorithm", ["mixed", "ring", "log"])
def test_between_nodes_the_nodes_link_carries_each_byte_once(kind, algorithm):
    """With a slow link between nodes, the time is that of its bytes: a node's rows to all others, or the sum of all."""
    nodes, size = 8, 64_000
    between = Cluster(Link(0.0, 1e30), Link(0.0, 1e6), NODE, algorithm)
    bytes_of_a_node = {
        "all_reduce": 2 * (nodes - 1) / nodes * size,
        "all_gather": (nodes - 1) * NODE * size,
        "reduce_scatter": (nodes - 1) / nodes * size,
    }[kind]
    assert between.seconds(call(kind, size), nodes * NODE) == pytest.approx(bytes_of_a_node / 1e6)


def test_one_process_waits_for_nothing():
    alone = step([call("all_reduce", 10**9), call("all_gather", 10**9)], 1, 0.5, one_node(SLOW, "ring"))
    assert alone.seconds == 0.5 and not any(alone.waits.values())
    for kind in ("all_reduce", "all_gather", "reduce_scatter"):
        assert call(kind, 10**6).sent(1) == 0


def test_limits_of_many_processes():
    """The bytes of an all-reduce tend to twice its size, those of an all-gather to N times; rounds to log N or N."""
    free = one_node(Link(0.0, 1e6), "mixed")
    assert free.seconds(call("all_reduce", 10**6), 4096) == pytest.approx(2.0, rel=1e-3)
    assert free.seconds(call("all_gather", 10**3), 4096) == pytest.approx(4.095)
    late = one_node(Link(1e-3, math.inf), "mixed")
    assert late.seconds(call("all_reduce", 10**6), 4096) == pytest.approx(2 * 12 * 1e-3)
    assert late.seconds(call("all_gather", 10**6), 4096) == pytest.approx(4095 * 1e-3)


@pytest.mark.parametrize("share", [0.2, 0.9, 1.5, 4.0])
def test_overlap_of_gradients_in_closed_form(share):
    """K buckets of t seconds, ready at k/K of the backward b: t is exposed, or b/K + K t - b where t is above b/K."""
    k, compute, world = 5, 3.0, 2
    backward = (1 - FORWARD) * compute
    t = share * backward / k
    by = Link(0.0, 1.0)
    buckets = [Exchange("gradients", "all_reduce", "backward", 1) for _ in range(k)]
    cluster = Cluster(Link(0.0, 1 / t), by, per_node=2, algorithm="ring")
    assert cluster.seconds(buckets[0], world) == pytest.approx(t)
    exposed = max(t, backward / k + k * t - backward)
    found = step(buckets, world, compute, cluster)
    assert found.seconds == pytest.approx(compute + exposed) and found.waits["gradients"] == pytest.approx(exposed)


def test_what_is_waited_for_adds_up():
    """Without gradients in the way, a step is its computation and the time of every call."""
    calls = [
        call("all_gather", 100, times=3),
        call("reduce_scatter", 400, phase="backward", times=2),
        call("all_gather", 12, "batch norm", times=5),
        call("all_reduce", 16, "batch norm", "backward", 5),
        call("all_reduce", 64, "statistics", "after"),
    ]
    cluster = Cluster(FAST, SLOW, 2)
    found = step(calls, 4, 1.0, cluster)
    assert found.seconds == pytest.approx(1.0 + sum(e.times * cluster.seconds(e, 4) for e in calls))
    assert found.waits["batch norm"] == pytest.approx(sum(5 * cluster.seconds(e, 4) for e in calls[2:4]))


def test_a_waited_call_queues_behind_buckets():
    """One network: batch norm's call at 3/4 of the backward waits for the bucket that left at 1/2 and takes longer."""
    gradients = [Exchange("gradients", "all_reduce", "backward", 1)] * 2
    norms = call("all_reduce", 1, "batch norm", "backward", 2)
    cluster = Cluster(Link(0.0, 1.0), Link(0.0, 1.0), 2, "ring")  # each call lasts 1 second
    backward = 1.0
    found = step([*gradients, norms], 2, backward / (1 - FORWARD), cluster)
    # norm 0.25-1.25, bucket 1.5-2.5 (half of the backward is done at 1.5), norm 2.5-3.5, end of it 3.75, bucket to 4.75
    assert found.seconds == pytest.approx(backward / (1 - FORWARD) * FORWARD + 4.75)
    assert found.waits["batch norm"] == pytest.approx(2.0) and found.waits["gradients"] == pytest.approx(0.75 + 1.0)


def test_links():
    assert link("ib100") == Link(5e-6, 12.5e9) and link("100:5").bandwidth == 12.5e9
    for bad in ("ib", "100", "x:1", "-1:5", "0:5", "100:-1", "nan:1"):
        with pytest.raises(ScalingError, match="unknown link"):
            link(bad)


def test_processes_fill_nodes():
    assert Cluster(FAST, SLOW, 8).shape(4) == (4, 1) and Cluster(FAST, SLOW, 8).shape(64) == (8, 8)
    for world in (0, 9, 12):
        with pytest.raises(ScalingError, match="do not fill nodes of 8"):
            Cluster(FAST, SLOW, 8).shape(world)
    with pytest.raises(ScalingError, match="at least 1 process"):
        Cluster(FAST, SLOW, 0)
