"""What a row of the table of methods is: its cells, and which combinations of them have a meaning.

Torch-free. The rows themselves: `siamscope.methods`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

Normalise = Literal["l2", "batch", "none"]
Target = Literal["shared", "detached", "momentum", "teacher"]
Predictor = Literal[
    "none", "linear", "mlp", "symmetric", "symmetric-mlp", "directpred", "directset", "directcopy", "optimal",
]  # fmt: skip
Objective = Literal[
    "asymmetric", "contrastive", "spectral", "decorrelation", "covariance", "prototypes", "whitening", "centroids",
    "slices", "composed",
]  # fmt: skip
Norm = Literal["none", "batch", "batch-no-affine"]
Regulariser = Literal["none", "variance", "isotropic"]

SET_BY_STATISTICS = ("directpred", "directset", "directcopy", "optimal")


class MethodError(ValueError):
    """An unknown method, or a combination of cells that has no meaning."""


@dataclass(frozen=True)
class Head:
    """A multi-layer perceptron as data: `layers - 1` times (linear, norm, ReLU), then (linear, last norm)."""

    layers: int = 2
    """Linear layers; a projector of 0 layers is the identity, and then embeddings are the backbone's features."""
    hidden: int = 2048
    """Width of the hidden layers."""
    out: int = 2048
    """Width of the output; for a predictor it is always the projector's, and this value is not used."""
    norm: Norm = "batch"
    """Normalisation after each hidden layer."""
    last_norm: Norm = "none"
    """Normalisation after the last layer."""
    last_bias: bool = True
    """Whether the last layer has a bias; a bias before a batch norm is left out in any case."""


@dataclass(frozen=True)
class PredictorOptions:
    """How a predictor that is set from statistics follows the correlation F of the embeddings."""

    rho: float = 0.3
    """Share of the old F that every step keeps."""
    eps: float = 0.1
    """Boost of small eigenvalues."""
    rule: Literal["paper", "code"] = "code"
    """DirectPred: sqrt(s) + eps * max(s) (paper, eq. 18), or sqrt(s / max(s)) + eps (its code, free of scale)."""
    every: int = 1
    """Steps between two settings; in between the predictor takes gradient steps."""
    centred: bool = False
    """F of embeddings less their mean."""
    shift: float = 0.0
    """DirectPred: subtracted from s (paper) or from s / max(s) (code) under the root: the paper's c_j."""
    power: float = 0.5
    """DirectSet: the predictor is F^power / |F^power| + eps I."""
    norm: Literal["spectral", "frobenius"] = "spectral"
    """DirectSet, DirectCopy: which norm divides F; DirectCopy finds the spectral one by iteration."""
    partitions: int = 1
    """DirectPred: random hyperplanes that split the samples, each side with an F of its own (1 = no split)."""
    straight_through: bool = False
    """The gradient passes the predictor unchanged (IsoLoss)."""


@dataclass(frozen=True)
class Method:
    """One row: the cells of a Siamese method with their parameters."""

    name: Annotated[str, arg(aliases=("--method",))] = "simsiam"
    """Name of the row that the other cells start from; see `siamscope methods`."""
    normalise: Annotated[Normalise, arg(aliases=("--normalise",))] = "l2"
    """How embeddings are normalised before the objective: to unit length, per dimension over the batch, or not."""
    target: Annotated[Target, arg(aliases=("--target",))] = "detached"
    """The other branch: shared weights with gradient, the same detached, a momentum (EMA) copy, or the features of a
    trained encoder (`teacher`): distillation."""
    predictor: Annotated[Predictor, arg(aliases=("--predictor",))] = "mlp"
    """What stands between the projector and the objective on the online branch."""
    objective: Annotated[Objective, arg(aliases=("--objective",))] = "asymmetric"
    """The loss: what pulls views together and samples apart."""
    objective_form: Annotated[Literal["loss", "gradient"], arg(aliases=("--objective-form",))] = "loss"
    """Train from the loss by autograd, or from the closed form of its gradient."""
    projector: Head = field(default_factory=Head)
    """Layers between the backbone and the embedding; with a teacher its output has the teacher's width in any case."""
    projector_scale: Annotated[float, arg(aliases=("--wide-projector",))] = 1.0
    """Multiplies the widths of the projector, hidden and out: 2 doubles them."""
    predictor_head: Head = field(default_factory=lambda: Head(layers=2, hidden=512))
    """Layers of the predictor when it is `mlp` or `symmetric-mlp`."""
    predictor_bias: bool = False
    """Predictors `linear` and `symmetric`: add a bias."""
    predictor_options: PredictorOptions = field(default_factory=PredictorOptions)
    """Predictors that are set from statistics."""
    momentum: float = 0.99
    """Momentum target: EMA coefficient at the first step."""
    momentum_end: float = 1.0
    """Momentum target: EMA coefficient at the last step (cosine in between; set equal to `momentum` for a constant)."""
    momentum_buffers: Literal["copy", "average"] = "copy"
    """Momentum target: copy the online network's batch-norm buffers, or average them as the weights."""
    target_init: Literal["copy", "random"] = "copy"
    """Momentum target: start as a copy of the online network, or as another draw (what DirectPred's code does)."""
    teacher: Annotated[str, arg(aliases=("--teacher",))] = ""
    """Teacher target: the run directory or encoder file whose features, standardised, the embeddings are to be."""
    regulariser: Annotated[Regulariser, arg(aliases=("--regulariser",))] = "none"
    """A further term on the projector's outputs, as unit vectors: `variance`, a hinge on every dimension's deviation,
    before a last batch norm (against complete collapse); `isotropic`, directions used alike (dimensional collapse)."""
    regulariser_weight: float = 0.1
    """Its weight beside the objective; the variance term lies in [0, 1], the isotropic one in [0, log d]."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Asymmetric: minus the cosine, or the squared distance (2 - 2 cos on unit vectors)."""
    temperature: Annotated[float, arg(aliases=("--temperature",))] = 0.2
    """Contrastive, prototypes: softmax temperature."""
    negatives: Literal["both-views", "other-view", "bank"] = "both-views"
    """Contrastive: the keys of both views, of the other view only, or of the memory bank."""
    bank: int = 0
    """Contrastive: keys in the memory bank."""
    neighbour: bool = False
    """Contrastive: replace every key by its nearest neighbour in the bank (NNCLR)."""
    decoupled: bool = False
    """Contrastive: leave the positive out of the denominator (DCL)."""
    balance: Annotated[float, arg(aliases=("--balance",))] = 1.0
    """Spectral, decorrelation, slices, composed: weight of the negative term."""
    rho: Annotated[float, arg(aliases=("--rho",))] = 0.99
    """Spectral: share of the old correlation F that every step keeps; 0 = F of this batch alone. Teacher target: the
    same of the mean and variance of its features."""
    phi: Literal["identity", "inverse", "inverse-sqrt", "log"] = "identity"
    """Spectral: the negative is phi(F) u with phi(s) = s, -1/(s + eps), -1/sqrt(s + eps) or log(s + eps) + 1."""
    statistics: Literal["target", "online"] = "target"
    """Spectral: whose embeddings make F."""
    centred: bool = False
    """Spectral: F and u less the running mean."""
    eps: float = 1e-4
    """Spectral, covariance, whitening: added to eigenvalues or variances."""
    form: Literal["exact", "trace"] = "exact"
    """Decorrelation: (W_ii - 1)^2 on the diagonal (Barlow Twins), or -2 W_ii + balance W_ii^2 (UniGrad's A -> I)."""
    invariance: float = 25.0
    """Covariance: weight of the squared distance of the views."""
    variance: float = 25.0
    """Covariance: weight of the hinge on the standard deviations."""
    covariance: float = 1.0
    """Covariance: weight of the squared covariances."""
    prototypes: int = 2048
    """Prototypes: how many."""
    assignment: Literal["centred", "sinkhorn"] = "centred"
    """Prototypes: targets by softmax of centred scores (DINO), or by Sinkhorn's equal shares (SwAV)."""
    target_temperature: float = 0.04
    """Prototypes: temperature of the target's scores (Sinkhorn: its entropy weight)."""
    centre_momentum: float = 0.9
    """Prototypes, centred: share of the old centre that every step keeps."""
    iterations: int = 3
    """Prototypes, sinkhorn: iterations."""
    per_sample: bool = False
    """Centroids: divide the nuclear norm by the number of samples: the scale of the other objectives."""
    whiten_group: int = 0
    """Whitening: samples that are whitened together (0 = the batch)."""
    slices: int = 1024
    """Slices: random directions a step."""
    knots: int = 17
    """Slices: points of the characteristic function on [0, 3]."""
    positive: Annotated[str, arg(aliases=("--positive",))] = "unigrad"
    """Composed: the row whose positive term is taken; its numbers (temperature, rho, ...) are this row's."""
    negative: Annotated[str, arg(aliases=("--negative",))] = "simclr"
    """Composed: the row whose negative term is taken; `balance` weighs it."""
    paper: Suppress[str] = ""
    """Citation."""

    def __post_init__(self) -> None:
        problem = next(_meaningless(self), None)
        if problem:
            raise MethodError(f"method {self.name!r}: {problem}")


def projector_of(row: Method) -> Head:
    """The projector as it is built: its widths times `projector_scale`, rounded, at least 1."""
    head = row.projector
    hidden, out = (max(round(width * row.projector_scale), 1) for width in (head.hidden, head.out))
    return replace(head, hidden=hidden, out=out)


def _meaningless(m: Method) -> Iterator[str]:
    """Why this combination of cells has no meaning."""
    yield from _out_of_range(m)
    yield from _unbounded(m)
    if m.objective == "prototypes" and m.target == "shared":
        yield "target 'shared': assignments to prototypes are targets without gradient; use 'detached' or 'momentum'"
    if m.objective == "covariance" and m.normalise == "batch":
        yield "normalise 'batch' fixes the standard deviations that the variance term acts on; use 'none' or 'l2'"
    if m.objective == "slices" and m.normalise == "l2":
        yield "normalise 'l2': vectors of length one cannot follow a standard Gaussian; use 'none' or 'batch'"
    if m.objective == "whitening" and m.normalise != "none":
        yield f"normalise {m.normalise!r}: the objective whitens and normalises by itself; use 'none'"
    if m.objective == "contrastive" and m.bank == 0 and (m.negatives == "bank" or m.neighbour):
        yield "negatives or neighbours from a memory bank need one: give bank, the number of keys"
    if m.objective == "whitening" and m.eps >= 1:
        yield f"eps must be below 1: whitening uses (1 - eps) C + eps I, got {m.eps}"
    if m.objective == "slices" and m.balance > 1:
        yield f"balance must be at most 1: slices weighs (1 - balance) invariance + balance SIGReg, got {m.balance}"
    if m.objective == "slices" and m.knots < 2:
        yield f"knots must be at least 2, got {m.knots}"
    if m.objective == "contrastive" and m.neighbour and m.negatives == "bank":
        yield "neighbour with negatives 'bank': every positive would be a negative as well; use 'other-view'"
    if m.eps == 0 and (m.objective == "covariance" or (m.objective == "spectral" and m.phi != "identity")):
        yield f"eps must be above 0 for the objective {m.objective} (a collapsed dimension has variance 0), got 0"
    if m.objective == "contrastive" and m.bank and not (m.negatives == "bank" or m.neighbour):
        yield f"bank = {m.bank} is not used with negatives {m.negatives!r} and without neighbour"
    if m.objective == "composed" and m.objective_form == "loss":
        yield "a composed gradient has no loss; use objective_form 'gradient'"
    if m.objective == "composed" and m.target == "shared":
        yield "target 'shared': a composed gradient is that of the online view; use 'detached' or 'momentum'"
    if m.predictor_options.straight_through and m.predictor == "none":
        yield "predictor_options.straight_through needs a predictor"
    if m.predictor_options.partitions > 1 and m.predictor != "directpred":
        yield f"predictor_options.partitions splits DirectPred's statistics; predictor is {m.predictor!r}"
    if m.predictor == "symmetric-mlp" and (m.predictor_head.layers != 2 or m.predictor_head.last_norm != "none"):
        yield "predictor_head: 'symmetric-mlp' has 2 layers, the second the first's transpose, and no last_norm"


def _unbounded(m: Method) -> Iterator[str]:
    """Combinations in which the loss falls for ever while the embeddings only grow."""
    grows = "leaves the {} objective unbounded below (the embeddings only have to grow); use normalise 'l2' or 'batch'"
    if m.normalise != "none":
        return
    if m.objective == "asymmetric" and m.distance == "cosine":
        yield f"normalise 'none' {grows.format('cosine')}, or distance 'euclidean'"
    if m.objective == "spectral" and (m.phi != "identity" or m.balance == 0):
        yield f"normalise 'none' {grows.format(f'spectral ({m.phi})')}"
    if m.objective == "decorrelation" and m.form == "trace" and m.balance == 0:
        yield f"normalise 'none' {grows.format('decorrelation (trace, balance 0)')}"
    if m.objective == "centroids":
        yield f"normalise 'none' {grows.format('centroids')}"
    if m.objective == "composed":
        yield f"normalise 'none' {grows.format('composed')}"


def _out_of_range(m: Method) -> Iterator[str]:
    for name in ("temperature", "target_temperature"):
        if not getattr(m, name) > 0:
            yield f"{name} must be above 0, got {getattr(m, name)}"
    shares = ("momentum", "momentum_end", "rho", "centre_momentum")
    for name, value in [(n, getattr(m, n)) for n in shares] + [("predictor_options.rho", m.predictor_options.rho)]:
        if not 0 <= value <= 1:
            yield f"{name} must lie in [0, 1], got {value}"
    weights = ("eps", "balance", "invariance", "variance", "covariance", "bank", "whiten_group", "regulariser_weight")
    for name, value in [(n, getattr(m, n)) for n in weights] + [("predictor_options.eps", m.predictor_options.eps)]:
        if not 0 <= value < float("inf"):
            yield f"{name} must be a number of at least 0, got {value}"
    above = [("predictor_options.power", m.predictor_options.power), ("projector_scale", m.projector_scale)]
    for name, value in above:
        if not 0 < value < float("inf"):
            yield f"{name} must be above 0, got {value}"
    counts = {name: getattr(m, name) for name in ("prototypes", "iterations", "slices", "knots")}
    counts |= {f"predictor_options.{n}": getattr(m.predictor_options, n) for n in ("every", "partitions")}
    for name, value in counts.items():
        if value < 1:
            yield f"{name} must be at least 1, got {value}"
    for name, least in (("projector", 0), ("predictor_head", 1)):
        head: Head = getattr(m, name)
        if head.layers < least or min(head.hidden, head.out) < 1:
            yield f"{name}: hidden and out must be at least 1, layers at least {least}, got {head}"


# ------------------------------------------------------------------------------- which cells a row reads

_OF_OBJECTIVE = {
    "asymmetric": ("distance",),
    "contrastive": ("temperature", "negatives", "bank", "neighbour", "decoupled"),
    "spectral": ("phi", "balance", "rho", "statistics", "centred", "eps"),
    "decorrelation": ("form", "balance"),
    "covariance": ("invariance", "variance", "covariance", "eps"),
    "prototypes": ("prototypes", "assignment", "temperature", "target_temperature", "centre_momentum", "iterations"),
    "whitening": ("whiten_group", "eps"),
    "centroids": ("per_sample",),
    "slices": ("balance", "slices", "knots"),
    "composed": ("positive", "negative", "balance"),
}
_NOT_OF_ASSIGNMENT = {"centred": "iterations", "sinkhorn": "centre_momentum"}
_OF_PREDICTOR = {
    "directpred": ("rho", "eps", "rule", "every", "centred", "shift", "partitions", "straight_through"),
    "directset": ("rho", "eps", "every", "centred", "power", "norm", "straight_through"),
    "directcopy": ("rho", "eps", "every", "centred", "norm", "straight_through"),
    "optimal": ("rho", "eps", "every", "straight_through"),
    "none": (),
}
KINDS = ("distance", "negatives", "neighbour", "decoupled", "phi", "statistics", "centred", "form", "assignment")
"""Cells that say which objective a row has; the others are its numbers."""


def reads_of_objective(row: Method) -> tuple[str, ...]:
    """Names of the cells that the row's objective reads."""
    unused = {_NOT_OF_ASSIGNMENT[row.assignment] if row.objective == "prototypes" else ""}
    if row.objective == "spectral" and row.phi == "identity":
        unused.add("eps")
    return tuple(name for name in _OF_OBJECTIVE[row.objective] if name not in unused)


def reads_of_predictor(row: Method) -> tuple[str, ...]:
    """Names of the cells of `predictor_options` that the row's predictor reads."""
    return _OF_PREDICTOR.get(row.predictor, ("straight_through",))


def not_read(row: Method, cells: Sequence[str]) -> list[str]:
    """Those of `cells` (dotted names, as on a command line) that change nothing in this row."""
    read = {"name", "normalise", "target", "predictor", "objective", "objective_form", "projector", "regulariser"}
    read |= set(reads_of_objective(row)) | {f"predictor_options.{name}" for name in reads_of_predictor(row)}
    if row.target == "momentum":
        read |= {"momentum", "momentum_end", "momentum_buffers", "target_init"}
    if row.target == "teacher":
        read |= {"teacher", "rho"}
    if row.regulariser != "none":
        read.add("regulariser_weight")
    if row.projector.layers:
        read.add("projector_scale")
    if row.predictor in ("mlp", "symmetric-mlp"):
        read.add("predictor_head")
    if row.predictor in ("linear", "symmetric"):
        read.add("predictor_bias")
    if row.objective == "composed":  # its parts have the numbers of this row
        read |= {name for names in _OF_OBJECTIVE.values() for name in names}
    return [cell for cell in cells if cell not in read and cell.partition(".")[0] not in read]
