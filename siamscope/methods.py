"""The table of methods: a Siamese method is a row of independent cells.

Every method says the same sentence, "pull u1 to its other view, push it from other samples", and differs only in the
cells below. A new method is a new row; "SimSiam with a momentum target" is one changed cell:

>>> import dataclasses
>>> from siamscope.methods import get
>>> dataclasses.replace(get("simsiam"), target="momentum").target
'momentum'

Nothing elsewhere branches on a method's name. This file imports neither torch nor numpy. What each cell means:
`siamscope.row`.
"""

from __future__ import annotations

import difflib
import fnmatch
from dataclasses import replace

from siamscope.row import KINDS, Head, Method, MethodError, PredictorOptions, reads_of_objective

_ROWS = (
    # ------------------------------------------------------------------------------ contrastive: other samples repel
    Method(
        name="simclr", normalise="l2", target="shared", predictor="none", objective="contrastive",
        projector=Head(layers=2, hidden=2048, out=128, last_norm="batch"), temperature=0.5,
        paper="Chen et al. 2020, A simple framework for contrastive learning, arXiv:2002.05709",
    ),
    Method(
        name="mocov2", normalise="l2", target="momentum", predictor="none", objective="contrastive",
        projector=Head(layers=2, hidden=2048, out=128, norm="none"), temperature=0.2,
        negatives="bank", bank=65_536, momentum=0.999, momentum_end=0.999,
        paper="Chen et al. 2020, Improved baselines with momentum contrastive learning, arXiv:2003.04297",
    ),
    Method(
        name="mocov3", normalise="l2", target="momentum", predictor="mlp", objective="contrastive",
        projector=Head(layers=2, hidden=4096, out=256, last_norm="batch-no-affine"),
        predictor_head=Head(layers=2, hidden=4096, last_norm="batch-no-affine"),
        temperature=1.0, negatives="other-view", momentum=0.99,
        paper="Chen, Xie & He 2021, An empirical study of training self-supervised ViTs, arXiv:2104.02057",
    ),
    Method(
        name="nnclr", normalise="l2", target="detached", predictor="mlp", objective="contrastive",
        projector=Head(layers=3, hidden=2048, out=256, last_norm="batch"),
        predictor_head=Head(layers=2, hidden=4096),
        temperature=0.1, negatives="other-view", neighbour=True, bank=98_304,
        paper="Dwibedi et al. 2021, With a little help from my friends: nearest neighbours, arXiv:2104.14548",
    ),
    # ------------------------------------------------------- asymmetric: only a pull; the predictor keeps samples apart
    Method(
        name="byol", normalise="l2", target="momentum", predictor="mlp", objective="asymmetric", distance="euclidean",
        projector=Head(layers=2, hidden=4096, out=256, last_bias=False),
        predictor_head=Head(layers=2, hidden=4096, last_bias=False), momentum=0.996,
        paper="Grill et al. 2020, Bootstrap your own latent, arXiv:2006.07733",
    ),
    Method(
        name="simsiam", normalise="l2", target="detached", predictor="mlp", objective="asymmetric",
        projector=Head(layers=3, hidden=2048, out=2048, last_norm="batch-no-affine", last_bias=False),
        predictor_head=Head(layers=2, hidden=512),
        paper="Chen & He 2021, Exploring simple Siamese representation learning, arXiv:2011.10566",
    ),
    Method(
        name="directpred", normalise="l2", target="momentum", predictor="directpred", objective="asymmetric",
        projector=Head(layers=2, hidden=512, out=128), predictor_options=PredictorOptions(rho=0.3, eps=0.1),
        momentum=0.996, momentum_end=0.996,
        paper="Tian, Chen & Ganguli 2021, Understanding self-supervised learning dynamics, arXiv:2102.06810",
    ),
    Method(
        name="directset", normalise="l2", target="momentum", predictor="directset", objective="asymmetric",
        projector=Head(layers=2, hidden=512, out=128),
        predictor_options=PredictorOptions(rho=0.5, eps=0.3, power=2.0), momentum=0.996, momentum_end=0.996,
        paper="Wang et al. 2021, Towards demystifying representation learning, DirectSet(alpha), arXiv:2110.04947",
    ),
    Method(
        name="directcopy", normalise="l2", target="momentum", predictor="directcopy", objective="asymmetric",
        projector=Head(layers=2, hidden=512, out=128), predictor_options=PredictorOptions(rho=0.5, eps=0.3),
        momentum=0.996, momentum_end=0.996,
        paper="Wang et al. 2021, Towards demystifying representation learning, DirectCopy, arXiv:2110.04947",
    ),
    Method(
        name="isoloss", normalise="l2", target="detached", predictor="directpred", objective="asymmetric",
        projector=Head(layers=2, hidden=512, out=128),
        predictor_options=PredictorOptions(rho=0.3, eps=0.1, straight_through=True),
        paper="Halvagal, Laborieux & Zenke 2023, Implicit variance regularization, arXiv:2212.04858",
    ),
    # --------------------------------------------------------- decorrelation and whitening: dimensions must differ
    Method(
        name="barlow", normalise="batch", target="shared", predictor="none", objective="decorrelation", balance=0.0051,
        projector=Head(layers=3, hidden=8192, out=8192, last_bias=False),
        paper="Zbontar et al. 2021, Barlow Twins, arXiv:2103.03230",
    ),
    Method(
        name="vicreg", normalise="none", target="shared", predictor="none", objective="covariance",
        projector=Head(layers=3, hidden=8192, out=8192, last_bias=False),
        paper="Bardes, Ponce & LeCun 2022, VICReg, arXiv:2105.04906",
    ),
    Method(
        name="wmse", normalise="none", target="shared", predictor="none", objective="whitening",
        projector=Head(layers=2, hidden=1024, out=64), eps=0.0,
        paper="Ermolov et al. 2021, Whitening for self-supervised representation learning, arXiv:2007.06346",
    ),
    # ---------------------------------------------------------------- spectral: the negative is phi(F) u
    Method(
        name="unigrad", normalise="l2", target="momentum", predictor="none", objective="spectral", phi="identity",
        projector=Head(layers=3, hidden=2048, out=2048), balance=100.0, rho=0.99, momentum=0.996,
        paper="Tao et al. 2022, A unified gradient framework for Siamese learning, arXiv:2112.05141",
    ),
    Method(
        name="tico", normalise="l2", target="momentum", predictor="none", objective="spectral", phi="identity",
        projector=Head(layers=2, hidden=4096, out=256), balance=16.0, rho=0.9, statistics="online", momentum=0.99,
        paper="Zhu et al. 2022, TiCo: transformation invariance and covariance contrast, arXiv:2206.10698",
    ),
    Method(
        name="corinfomax", normalise="l2", target="shared", predictor="none", objective="spectral", phi="inverse",
        projector=Head(layers=3, hidden=2048, out=64), balance=7.92e-3, rho=0.01, statistics="online", centred=True,
        eps=1e-8, paper="Ozsoy et al. 2022, Self-supervised learning with an information maximization criterion, "
        "arXiv:2209.07999",
    ),
    Method(
        name="mmcr", normalise="l2", target="shared", predictor="none", objective="centroids",
        projector=Head(layers=3, hidden=8192, out=512),
        paper="Yerxa et al. 2023, Learning efficient coding with maximum manifold capacity, arXiv:2303.03307",
    ),
    # ---------------------------------------------------------------- prototypes and slices
    Method(
        name="dino", normalise="l2", target="momentum", predictor="none", objective="prototypes",
        assignment="centred", prototypes=65_536, temperature=0.1, target_temperature=0.04, momentum=0.996,
        projector=Head(layers=3, hidden=2048, out=256, norm="none"),
        paper="Caron et al. 2021, Emerging properties in self-supervised vision transformers, arXiv:2104.14294",
    ),
    Method(
        name="swav", normalise="l2", target="detached", predictor="none", objective="prototypes",
        assignment="sinkhorn", prototypes=3000, temperature=0.1, target_temperature=0.05,
        projector=Head(layers=2, hidden=2048, out=128),
        paper="Caron et al. 2020, Unsupervised learning by contrasting cluster assignments, arXiv:2006.09882",
    ),
    Method(
        name="lejepa", normalise="none", target="shared", predictor="none", objective="slices", balance=0.02,
        projector=Head(layers=3, hidden=2048, out=128),
        paper="Balestriero & LeCun 2025, LeJEPA: provable and scalable SSL without the heuristics, arXiv:2511.08544",
    ),
)  # fmt: skip

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


def parts(row: Method) -> tuple[Method, Method]:
    """The rows of a composed method's positive and negative term, with the numbers of `row` itself.

    What kind of objective each is comes from the table; temperature, rho, eps, balance, bank, ... from `row`, so that a
    recipe states what is used.

    Raises:
        MethodError: an unknown row, or one that cannot be combined with the row's normalisation, target or numbers.
    """
    return _part(row, row.positive), _part(row, row.negative)


def _part(row: Method, name: str) -> Method:
    published = get(name)
    if published.objective == "composed":
        raise MethodError(f"method {row.name!r}: {name!r} is composed itself; name a row with an objective of its own")
    numbers = {cell: getattr(row, cell) for cell in reads_of_objective(published) if cell not in KINDS}
    if not published.bank:
        numbers.pop("bank", None)
    try:
        return replace(published, normalise=row.normalise, target=row.target, objective_form="loss", **numbers)
    except MethodError as error:
        raise MethodError(f"method {row.name!r} composed of {row.positive!r} and {row.negative!r}: {error}") from error


def list_methods(pattern: str = "*") -> list[str]:
    """Names of the rows that match a shell-style pattern."""
    return [name for name in METHODS if fnmatch.fnmatch(name, pattern)]


__all__ = ["METHODS", "Head", "Method", "MethodError", "PredictorOptions", "get", "list_methods", "parts"]
