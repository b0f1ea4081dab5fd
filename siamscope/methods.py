"""The table of methods: a Siamese method is a row of independent cells.

Every method says the same sentence, "pull u1 to its other view, push it from other samples", and differs only in the
cells below. A new method is a new row; "SimSiam with a momentum target" is one changed cell:

>>> import dataclasses
>>> from siamscope.methods import get
>>> dataclasses.replace(get("simsiam"), target="momentum").target
'momentum'

Nothing elsewhere branches on a method's name. This file imports neither torch nor numpy.
"""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import dataclass, field
from typing import Annotated, Literal

from tyro.conf import Suppress, arg

Normalise = Literal["l2", "batch", "none"]
Target = Literal["shared", "detached", "momentum"]
Predictor = Literal["none", "linear", "mlp"]
Objective = Literal["asymmetric", "contrastive"]
Norm = Literal["none", "batch", "batch-no-affine"]


class MethodError(ValueError):
    """An unknown method, or a combination of cells that has no meaning."""


@dataclass(frozen=True)
class Head:
    """A multi-layer perceptron as data: `layers - 1` times (linear, norm, ReLU), then (linear, last norm)."""

    layers: int = 2
    """Linear layers."""
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
class Method:
    """One row: the cells of a Siamese method with their parameters."""

    name: Annotated[str, arg(aliases=("--method",))] = "simsiam"
    """Name of the row that the other cells start from; see `siamscope methods`."""
    normalise: Annotated[Normalise, arg(aliases=("--normalise",))] = "l2"
    """How embeddings are normalised before the objective: to unit length, per dimension over the batch, or not."""
    target: Annotated[Target, arg(aliases=("--target",))] = "detached"
    """The other branch: shared weights with gradient, the same detached, or a momentum (EMA) copy."""
    predictor: Annotated[Predictor, arg(aliases=("--predictor",))] = "mlp"
    """What stands between the projector and the objective on the online branch."""
    objective: Annotated[Objective, arg(aliases=("--objective",))] = "asymmetric"
    """The loss: pull to the target only (asymmetric), or against other samples by softmax (contrastive)."""
    projector: Head = field(default_factory=Head)
    """Layers between the backbone and the embedding."""
    predictor_head: Head = field(default_factory=lambda: Head(layers=2, hidden=512))
    """Layers of the predictor when it is `mlp`."""
    distance: Literal["cosine", "euclidean"] = "cosine"
    """Asymmetric objective: minus the cosine, or the squared distance (2 - 2 cos on unit vectors)."""
    temperature: Annotated[float, arg(aliases=("--temperature",))] = 0.2
    """Contrastive objective: softmax temperature."""
    momentum: float = 0.99
    """Momentum target: EMA coefficient at the first step."""
    momentum_end: float = 1.0
    """Momentum target: EMA coefficient at the last step (cosine in between; set equal to `momentum` for a constant)."""
    momentum_buffers: Literal["copy", "average"] = "copy"
    """Momentum target: copy the online network's batch-norm buffers, or average them as the weights."""
    paper: Suppress[str] = ""
    """Citation."""

    def __post_init__(self) -> None:
        problem = _meaningless(self)
        if problem:
            raise MethodError(f"method {self.name!r}: {problem}")


def _meaningless(m: Method) -> str | None:
    """Why this combination of cells has no meaning, or None."""
    if m.objective == "asymmetric" and m.distance == "cosine" and m.normalise == "none":
        return (
            "normalise 'none' leaves the cosine objective unbounded below (the embeddings only have to grow); "
            "use normalise 'l2', or distance 'euclidean'"
        )
    if not m.temperature > 0:
        return f"temperature must be above 0, got {m.temperature}"
    for name in ("momentum", "momentum_end"):
        if not 0 <= getattr(m, name) <= 1:
            return f"{name} must lie in [0, 1], got {getattr(m, name)}"
    for name in ("projector", "predictor_head"):
        head: Head = getattr(m, name)
        if min(head.layers, head.hidden, head.out) < 1:
            return f"{name}: layers, hidden and out must be at least 1, got {head}"
    return None


_ROWS = (
    Method(
        name="simsiam",
        normalise="l2",
        target="detached",
        predictor="mlp",
        objective="asymmetric",
        projector=Head(layers=3, hidden=2048, out=2048, last_norm="batch-no-affine", last_bias=False),
        predictor_head=Head(layers=2, hidden=512),
        paper="Chen & He 2021, Exploring simple Siamese representation learning, arXiv:2011.10566",
    ),
    Method(
        name="byol",
        normalise="l2",
        target="momentum",
        predictor="mlp",
        objective="asymmetric",
        distance="euclidean",
        projector=Head(layers=2, hidden=4096, out=256, last_bias=False),
        predictor_head=Head(layers=2, hidden=4096, last_bias=False),
        momentum=0.996,
        paper="Grill et al. 2020, Bootstrap your own latent, arXiv:2006.07733",
    ),
    Method(
        name="simclr",
        normalise="l2",
        target="shared",
        predictor="none",
        objective="contrastive",
        projector=Head(layers=2, hidden=2048, out=128, last_norm="batch"),
        temperature=0.5,
        paper="Chen et al. 2020, A simple framework for contrastive learning, arXiv:2002.05709",
    ),
)

METHODS: dict[str, Method] = {row.name: row for row in _ROWS}


def get(name: str) -> Method:
    """The row of that name.

    Raises:
        MethodError: no such row; the message names the nearest one.
    """
    if name in METHODS:
        return METHODS[name]
    near = difflib.get_close_matches(name.lower(), METHODS, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise MethodError(f"unknown method {name!r}{hint} (known: {', '.join(METHODS)})")


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the rows that match a shell-style pattern."""
    return [name for name in METHODS if fnmatch.fnmatch(name, pattern)]
