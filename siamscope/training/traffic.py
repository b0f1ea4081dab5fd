"""What the processes of a run say to each other in a step, counted from the method's row, to the byte.

`network` reads the sizes of a model, `exchanges` lists the collective calls of one step of one process. Not counted:
the loop's own talk (a flag and the losses, a few bytes a step), CutMix (whose second loss gathers again) and rows with
a teacher. tests/training/test_traffic.py holds every row against the calls of real processes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from siamscope import methods, networks
from siamscope.row import SET_BY_STATISTICS, Method, MethodError
from siamscope.training.scaling import Exchange, Kind, Purpose
from siamscope.training.siamese import TARGET_VIEWS, Siamese

FIRST_BUCKET, BUCKET = 2**20, 25 * 2**20
"""DistributedDataParallel's defaults: bytes of the first bucket of gradients, and of the others."""


@dataclass(frozen=True)
class Norm:
    """A batch norm: its channels, how often it runs forward in a step, and how often backward."""

    channels: int
    forward: int
    backward: int


@dataclass(frozen=True)
class NetworkSize:
    """What the count needs of a model.

    width: dimensions of an embedding.  views: online views of an image.  item: bytes of a number.
    parameters: bytes of each trained tensor, in the model's order.  norms: batch norms that are synchronised.
    """

    row: Method
    width: int
    views: int
    item: int
    parameters: tuple[int, ...]
    norms: tuple[Norm, ...]


def network(
    row: Method, backbone: str = "resnet50", *, stem: str = "imagenet", width: float = 1.0, size: int = 224,
    local_crops: int = 0,
) -> NetworkSize:  # fmt: skip
    """The sizes of a row on a backbone, without the memory of one.

    Raises:
        MethodError: a row with a teacher.
        NetworkError: no such backbone or stem.
    """
    with torch.device("meta"):
        body = networks.create(backbone, stem=stem, width=width, input_size=size)
        return size_of(Siamese(body, body.feature_dim, _without_teacher(row)), local_crops)


def size_of(model: Siamese, local_crops: int = 0) -> NetworkSize:
    """The sizes of a model that exists."""
    row, views = _without_teacher(model.row), TARGET_VIEWS + local_crops
    trained = [p for p in model.parameters() if p.requires_grad]
    item = max(trained[0].element_size(), 4)  # embeddings and statistics are at least float32
    through = row.target == "shared"  # whether gradient flows through the targets
    norms = [Norm(c, views, views) for part in (model.online, model.predictor) for c in _channels(part)]
    if model.target is not None:
        norms += [Norm(c, TARGET_VIEWS, 0) for c in _channels(model.target)]
    further = 0 if _same(row) else TARGET_VIEWS
    norms += [Norm(c, views + further, views + further * through) for c in _channels(model.normalise)]
    return NetworkSize(row, _width(model), views, item, tuple(p.nbytes for p in trained), tuple(norms))


def exchanges(net: NetworkSize, world: int, batch: int, *, device: str = "cpu", accumulate: int = 1) -> list[Exchange]:
    """The collective calls of one step of one process, `batch` images a process, in the order of the step.

    On `cuda` torch's own SyncBatchNorm speaks in float32, and the gradient of a gather goes by reduce-scatter; on `cpu`
    statistics of batch norm travel in float64, and gloo's gradient of a gather is an all-reduce of all rows.

    Raises:
        MethodError: a batch that the parts of an accumulated step cannot share, or that is empty.
    """
    if batch < 1 or accumulate < 1 or batch % accumulate:
        raise MethodError(f"{batch} images a process cannot be shared by {accumulate} part(s) of a step")
    if world == 1:
        return []
    talk = _Talk(net, world, batch // accumulate, device)
    once = [*talk.norms(), *talk.statistics(), *talk.losses(), *talk.kept()]
    found = Counter(replace(e, times=1) for e in once for _ in range(e.times))
    repeated = [replace(e, times=count * accumulate) for e, count in found.items()]
    return repeated + [Exchange("gradients", "all_reduce", "backward", size) for size in buckets(net.parameters)]


def buckets(parameters: Sequence[int], first: int = FIRST_BUCKET, further: int = BUCKET) -> list[int]:
    """Bytes of each all-reduce of gradients: tensors in the order in which backward reaches them, last ones first."""
    out, size, limit = [], 0, first
    for tensor in reversed(parameters):
        size += tensor
        if size >= limit:
            out.append(size)
            size, limit = 0, further
    return out + [size] * (size > 0)


def total(found: Sequence[Exchange], world: int) -> dict[Purpose, float]:
    """Bytes that one process sends in a step, by purpose, when collectives move no byte twice."""
    out: dict[Purpose, float] = dict.fromkeys(("gradients", "embeddings", "statistics", "batch norm"), 0.0)
    for e in found:
        out[e.purpose] += e.times * e.sent(world)
    return out


def held(net: NetworkSize, world: int, batch: int) -> int:
    """Bytes of all processes' embeddings that one process holds at a time for its loss."""
    talk = _Talk(net, world, batch, "cuda")
    return sum(e.times * e.size for e in talk.losses() if e.kind == "all_gather" and e.purpose == "embeddings") * world


def pair_products(net: NetworkSize, world: int, batch: int) -> int:
    """Multiply-accumulates of the loss's forward pass in products that grow with the whole batch.

    Similarities to all keys, or the moments, Gram and whitening matrices that every process makes of all rows. The
    factorisations of W-MSE and MMCR, at most (d, d), are not in it.
    """
    row, n, d, rows = net.row, batch, net.width, batch * world
    views, pairs = net.views, net.views * TARGET_VIEWS - TARGET_VIEWS
    separate = views if _same(row) else views + TARGET_VIEWS
    match row.objective:
        case "contrastive" if row.negatives != "bank":
            both = row.negatives == "both-views"
            return n * rows * d * (pairs + both * TARGET_VIEWS)
        case "decorrelation":
            return pairs * _square_norm(rows, d, alike=False)
        case "covariance":
            return separate * _square_norm(rows, d, alike=True)
        case "centroids":
            return len(_centroids(row, views)) * (3 if rows >= d else 4) * max(rows, d) * min(rows, d) ** 2
        case "whitening" if _whole(row, batch):
            return separate * rows * d * d
        case _:
            return 0


def replicated_seconds(net: NetworkSize, world: int, batch: int, flops: float) -> float:
    """What those products cost beyond one process's own, forward and backward, at `flops` operations a second.

    Backward takes twice the forward's products; the nuclear norm's has its gradient from the forward.
    """
    passes = 1 if net.row.objective == "centroids" else 3
    grown = pair_products(net, world, batch) - pair_products(net, 1, batch)
    return 2 * passes * grown / flops


def _square_norm(rows: int, width: int, alike: bool) -> int:
    return rows * width**2 if rows >= width else (1 if alike else 2) * rows**2 * width


@dataclass(frozen=True)
class _Gather:
    """A tensor of `size` bytes a process that is gathered; the roles in which the loss differentiates it."""

    size: int
    online: bool = False
    target: bool = False
    purpose: Purpose = "embeddings"


@dataclass(frozen=True)
class _Talk:
    net: NetworkSize
    world: int
    batch: int
    device: str

    @property
    def row(self) -> Method:
        return self.net.row

    @property
    def rows(self) -> int:
        """Bytes of one view's embeddings of this process."""
        return self.net.item * self.batch * self.net.width

    def norms(self) -> Iterator[Exchange]:
        """Batch norm: two moments a channel and the count forward, two sums backward."""
        item, moment = (4, 4) if self.device == "cuda" else (self.net.item, 8)
        for norm in self.net.norms:
            forward = moment * (2 * norm.channels + 1)
            yield Exchange("batch norm", "all_gather", "forward", forward, norm.forward)
            if norm.backward:
                yield Exchange("batch norm", "all_reduce", "backward", 2 * item * norm.channels, norm.backward)

    def statistics(self) -> Iterator[Exchange]:
        """What predictor and objective know of the batch before the loss."""
        for part in _parts(self.row):
            if part.objective == "spectral":
                if part.centred:
                    yield from self._averaged(self.net.width)
                yield from self._averaged(self.net.width, self.net.width)
        if self.row.predictor in SET_BY_STATISTICS:
            yield from self._predictor_moments()

    def _predictor_moments(self) -> Iterator[Exchange]:
        options, d = self.row.predictor_options, self.net.width
        optimal, sides = self.row.predictor == "optimal", 2 * options.partitions
        if options.partitions > 1:
            yield from self._averaged(d)
            yield from self._averaged(sides, d + 1)
        else:
            sides = 1
            if options.centred:
                yield from self._averaged(d)
        if optimal and options.centred:
            yield from self._averaged(d)
        yield from self._averaged(sides + optimal, d, d)

    def _averaged(self, *shape: int) -> Iterator[Exchange]:
        size = self.net.item
        for side in shape:
            size *= side
        yield Exchange("statistics", "all_reduce", "forward", size)

    def losses(self) -> Iterator[Exchange]:
        """What the loss, or the closed form of its gradient, needs of the other processes; and a regulariser."""
        through = self.row.target == "shared"
        wanted = list(_gathers(self.net, self.batch))
        by_loss = self.row.objective_form == "loss"
        if by_loss:
            yield from self._gathered(wanted, [g.online or (g.target and through) for g in wanted])
        else:
            views = self.net.views if _same(self.row) else self.net.views + TARGET_VIEWS
            yield from self._gathered([_Gather(self.rows)] * views)
            yield from self._gathered(wanted)  # the loss that is logged
            if through and not _same(self.row):  # the target's role is differentiated by autograd
                yield from self._gathered(wanted, [g.target for g in wanted])
        if self.row.regulariser != "none":
            both = [_Gather(self.rows)] * TARGET_VIEWS
            yield from self._gathered(both, [by_loss] * TARGET_VIEWS)
            yield from self._gathered([] if by_loss else both)

    def _gathered(self, wanted: Sequence[_Gather], back: Sequence[bool] | None = None) -> Iterator[Exchange]:
        reduce: Kind = "reduce_scatter" if self.device == "cuda" else "all_reduce"
        for gather, returns in zip(wanted, back or [False] * len(wanted), strict=True):
            yield Exchange(gather.purpose, "all_gather", "forward", gather.size)
            if returns:
                yield Exchange(gather.purpose, reduce, "backward", self.world * gather.size)

    def kept(self) -> Iterator[Exchange]:
        """What later batches use: keys of a bank, the centre of the scores."""
        for part in _parts(self.row):
            if part.objective == "contrastive" and part.bank:
                yield Exchange("embeddings", "all_gather", "after", self.rows, TARGET_VIEWS)
            if part.objective == "prototypes" and part.assignment == "centred":
                yield Exchange("statistics", "all_reduce", "after", self.net.item * self.net.width)


def _gathers(net: NetworkSize, batch: int) -> Iterator[_Gather]:
    """The tensors that an objective's loss gathers."""
    row, rows = net.row, net.item * batch * net.width
    same, views = _same(row), net.views
    match row.objective:
        case "contrastive" if row.negatives != "bank":
            grad = not row.neighbour  # a neighbour from the bank passes none
            yield from [_Gather(rows, same and grad, grad)] * TARGET_VIEWS
        case "decorrelation" | "covariance" | "whitening" if row.objective != "whitening" or _whole(row, batch):
            for view in range(views):
                yield _Gather(rows, True, same and view < TARGET_VIEWS)
            yield from [] if same else [_Gather(rows, False, True)] * TARGET_VIEWS
        case "centroids":
            yield from [_Gather(rows, True, True)] * len(_centroids(row, views))
        case "slices" if row.balance:
            yield from [_Gather(net.item * 2 * row.knots * row.slices, True, False, "statistics")] * views
        case "prototypes" if row.assignment == "sinkhorn":
            size = net.item * TARGET_VIEWS * row.prototypes
            yield from [_Gather(size, purpose="statistics")] * row.iterations


def _centroids(row: Method, views: int) -> set[tuple[int, ...]]:
    """The pairs of views with a centroid of their own: with shared targets, (i, j) and (j, i) have one."""
    pairs = [(i, j) for i in range(views) for j in range(TARGET_VIEWS) if i != j]
    return {(min(p), max(p)) if _same(row) else p for p in pairs}


def _whole(row: Method, batch: int) -> bool:
    """Whether whitening needs all rows, because no process holds whole groups."""
    return not row.whiten_group or batch % row.whiten_group != 0


def _parts(row: Method) -> list[Method]:
    """The row, or those of the two objectives that a composed row is made of; one that serves as both counts once."""
    if row.objective != "composed":
        return [row]
    positive, negative = methods.parts(row)
    return [negative] if row.positive == row.negative else [positive, negative]


def _same(row: Method) -> bool:
    """Whether the targets are the online embeddings themselves."""
    return row.target == "shared" and row.predictor == "none"


def _without_teacher(row: Method) -> Method:
    if row.target == "teacher":
        raise MethodError(f"method {row.name!r}: the traffic of a row with a teacher is not counted")
    return row


def _channels(module: nn.Module) -> list[int]:
    return [m.num_features for m in module.modules() if isinstance(m, _BatchNorm)]


def _width(model: Siamese) -> int:
    last = [m for m in model.online.projector.modules() if isinstance(m, nn.Linear)]
    return last[-1].out_features if last else int(model.online.backbone.feature_dim)  # type: ignore[arg-type]
