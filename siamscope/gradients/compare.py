"""Methods side by side on the same embeddings: how hard each pulls and pushes, and in which directions.

>>> import torch
>>> from siamscope.gradients import compare, terms_of
>>> from siamscope.objectives import Asymmetric, Contrastive
>>> u = torch.nn.functional.normalize(torch.randn(2, 32, 8), dim=-1)
>>> found = compare(terms_of({"cosine": Asymmetric(), "contrastive": Contrastive(0.2)}, list(u), list(u)), u[0])
>>> [row["method"] for row in found.rows()]
['cosine', 'contrastive']
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from siamscope.objectives import GradientTerms, Objective, ObjectiveError, radial, tangent

Row = dict[str, float | str]


@dataclass(frozen=True)
class Norms:
    """One method's gradient in numbers; norms are Frobenius norms over the batch, scale and balance included."""

    pull: float
    """Norm of the tangent positive term."""
    push: float
    """Norm of the tangent negative term."""
    total: float
    """Norm of the tangent gradient."""
    balance: float
    """Mean balance factor over the samples."""
    radial: float
    """Norm of the gradient's radial part, which the normaliser removes, over that of the whole gradient."""

    @property
    def ratio(self) -> float:
        """Push over pull; 0 where both are 0, infinite where only the pull is."""
        return self.push / self.pull if self.pull else (math.inf if self.push else 0.0)


@dataclass(frozen=True)
class Comparison:
    """The gradients of several methods on the same embeddings. Matrices are (methods, methods), in order of `names`.

    Cosines are those of the tangent parts, of the whole batch as one vector. Where a method has no such term (the
    cosine loss without a predictor has no negative) its cosine with every other is 0.
    """

    names: tuple[str, ...]
    norms: tuple[Norms, ...]
    total_cosines: Tensor
    negative_cosines: Tensor

    def rows(self) -> list[Row]:
        """One flat row a method, for a CSV file that holds all that the figures show."""
        found = []
        for i, (name, norm) in enumerate(zip(self.names, self.norms, strict=True)):
            row: Row = {"method": name, "pull": norm.pull, "push": norm.push, "ratio": norm.ratio}
            row |= {"total": norm.total, "balance": norm.balance, "radial": norm.radial}
            row |= {f"cos_total:{other}": float(c) for other, c in zip(self.names, self.total_cosines[i], strict=True)}
            row |= {
                f"cos_push:{other}": float(c) for other, c in zip(self.names, self.negative_cosines[i], strict=True)
            }
            found.append(row)
        return found


def terms_of(
    objectives: Mapping[str, Objective],
    online: Sequence[Tensor],
    target: Sequence[Tensor],
    *,
    view: int = 0,
    shared: bool | Sequence[str] = False,
    normalise: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
) -> dict[str, GradientTerms]:
    """Every objective's gradient terms w.r.t. `online[view]` (n, d), on the same embeddings. No graph is kept.

    `shared`: whether targets carry gradient, for all objectives or for those named. Objectives with statistics must
    have seen a batch (`prepare`), normalised for them.

    `normalise`: for objectives that want other features than the given ones, by name a function of one view (n, d);
    they see normalised embeddings, and their terms are pulled back through the function, so that all terms are
    gradients w.r.t. the tensors given here. Their balance is then inside the negative.

    Raises:
        ObjectiveError: an objective refuses the embeddings, or `shared` or `normalise` name one that is not there.
    """
    named = set(normalise or ()) | (set() if isinstance(shared, bool) else set(shared))
    if named - set(objectives):
        unknown = ", ".join(sorted(named - set(objectives)))
        raise ObjectiveError(f"shared and normalise may name {', '.join(objectives)}; not {unknown}")
    online, target = [u.detach() for u in online], [t.detach() for t in target]
    found = {}
    for name, objective in objectives.items():
        both = shared if isinstance(shared, bool) else name in shared
        function = (normalise or {}).get(name)
        if function is None:
            with torch.no_grad():
                found[name] = objective.gradient_terms(online, target, view, shared=both)
        else:
            found[name] = _pulled_back(objective, online, target, view, both, function)
    return found


def _pulled_back(
    objective: Objective,
    online: Sequence[Tensor],
    target: Sequence[Tensor],
    view: int,
    shared: bool,
    normalise: Callable[[Tensor], Tensor],
) -> GradientTerms:
    leaf = online[view].clone().requires_grad_()
    with torch.enable_grad():
        mine = normalise(leaf)
    with torch.no_grad():
        u = [mine.detach() if i == view else normalise(z) for i, z in enumerate(online)]
        t = u[: len(target)] if shared else [normalise(z) for z in target]
        terms = objective.gradient_terms(u, t, view, shared=shared)
    (positive,) = torch.autograd.grad(mine, leaf, terms.positive.to(mine.dtype), retain_graph=True)
    (negative,) = torch.autograd.grad(mine, leaf, (terms.balance * terms.negative).to(mine.dtype))
    return GradientTerms(positive, negative, torch.ones_like(positive[0, 0]), terms.scale)


def compare(terms: Mapping[str, GradientTerms], u: Tensor) -> Comparison:
    """Norms and cosines of the tangent parts of several gradients w.r.t. the same embeddings u (n, d).

    Raises:
        ObjectiveError: no method, or terms of another shape than u.
    """
    if not terms:
        raise ObjectiveError("terms must hold at least one method")
    for name, term in terms.items():
        if term.positive.shape != u.shape or term.negative.shape != u.shape:
            raise ObjectiveError(f"terms[{name!r}] must be {tuple(u.shape)} as u, got {tuple(term.positive.shape)}")
    u = u.detach().double()
    exact = {name: _double(term) for name, term in terms.items()}
    return Comparison(
        tuple(exact),
        tuple(_norms(term, u) for term in exact.values()),
        cosine_matrix([tangent(term.total, u) for term in exact.values()]),
        cosine_matrix([tangent(term.push, u) for term in exact.values()]),
    )


def cosine_matrix(gradients: Sequence[Tensor]) -> Tensor:
    """Cosines between gradients of one shape, each taken as one vector: (k, k), symmetric, diagonal 1.

    A gradient of zero, or one that only rounding keeps from it (1e-12 of the largest), has cosine 0 with every other.
    """
    flat = torch.stack([g.flatten() for g in gradients])
    size = torch.linalg.vector_norm(flat, dim=1, keepdim=True)
    unit = torch.where(size > 1e-12 * size.max(), flat / size.clamp_min(torch.finfo(flat.dtype).tiny), 0.0)
    matrix = (unit @ unit.T).clamp(-1, 1)
    return ((matrix + matrix.T) / 2).fill_diagonal_(1.0)


def _double(term: GradientTerms) -> GradientTerms:
    positive, negative, balance = (part.detach().double() for part in (term.positive, term.negative, term.balance))
    return GradientTerms(positive, negative, balance, term.scale)


def _norms(term: GradientTerms, u: Tensor) -> Norms:
    size = float(torch.linalg.norm(term.total))
    return Norms(
        pull=float(torch.linalg.norm(tangent(term.pull, u))),
        push=float(torch.linalg.norm(tangent(term.push, u))),
        total=float(torch.linalg.norm(tangent(term.total, u))),
        balance=float(term.balance.mean()),
        radial=float(torch.linalg.norm(radial(term.total, u))) / size if size else 0.0,
    )


@dataclass(frozen=True)
class Geometry:
    """What the embeddings themselves look like: cosines of positive and of other pairs, and the spectrum of F."""

    positive_mean: float
    positive_std: float
    negative_mean: float
    negative_std: float
    effective_rank: float
    """exp of the entropy of F's eigenvalues, as shares of their sum; 0 where F is zero."""
    top: tuple[float, ...]
    """The largest eigenvalues of F, falling."""

    def row(self) -> Row:
        """Flat, for a CSV file."""
        row: Row = {name: value for name, value in vars(self).items() if name != "top"}
        return row | {f"eigenvalue_{i}": value for i, value in enumerate(self.top, 1)}


def geometry(first: Tensor, second: Tensor, top: int = 5) -> Geometry:
    """Cosine statistics of two views (n, d) and the spectrum of F = mean of u u^T over both, u of unit length.

    The negatives are the pairs of different samples, one of each view. Zero vectors stay zero.

    Raises:
        ObjectiveError: different shapes, fewer than 2 samples, or top below 0.
    """
    if first.ndim != 2 or first.shape != second.shape or len(first) < 2:
        raise ObjectiveError(
            f"first and second must both be (n, d) with n >= 2, got {tuple(first.shape)} and {tuple(second.shape)}"
        )
    if top < 0:
        raise ObjectiveError(f"top must be at least 0, got {top}")
    a, b = (torch.nn.functional.normalize(x.detach().double(), dim=1) for x in (first, second))
    similarity = a @ b.T
    positive = similarity.diagonal()
    negative = similarity[~torch.eye(len(a), dtype=torch.bool, device=a.device)]
    both = torch.cat([a, b])
    values = torch.linalg.svdvals(both).square() / len(both)
    share = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny)
    entropy = float(torch.special.entr(share).sum())
    return Geometry(
        positive_mean=float(positive.mean()),
        positive_std=float(positive.std(correction=0)),
        negative_mean=float(negative.mean()),
        negative_std=float(negative.std(correction=0)),
        effective_rank=math.exp(entropy) if float(values.sum()) else 0.0,
        top=tuple(values[:top].tolist()),
    )
