"""A row of the table made ready on given embeddings, and its gradient there, in two terms.

The embeddings z (n, d) are the projector's outputs, before any predictor and normaliser: what all rows have in common.
Each row sees them through its own predictor and normaliser, and its terms come back through both by the chain rule, so
that gradients with respect to z can be compared.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from siamscope.objectives import GradientTerms, ObjectiveError, radial, tangent
from siamscope.row import SET_BY_STATISTICS, Head, Method
from siamscope.training.siamese import Siamese

SHRINKAGE = 1e-3
"""eps of a whitening that meets a singular covariance."""


@dataclass(frozen=True)
class Views:
    """Two views of some samples: z (n, d) each from the online branch, and from the momentum target if there is one."""

    online: tuple[Tensor, Tensor]
    target: tuple[Tensor, Tensor] | None = None

    def targets(self, row: Method) -> list[Tensor]:
        """What the row's target branch puts out."""
        return list(self.target if row.target == "momentum" and self.target else self.online)


@dataclass(frozen=True)
class Embeddings:
    """The pairs that all rows are compared on, and further samples for what remembers others (banks, centres)."""

    pairs: Views
    others: tuple[Views, ...] = ()


@dataclass(frozen=True)
class Ready:
    """A row with its predictor, normaliser and objective, their statistics set; `remarks` say how."""

    row: Method
    model: Siamese
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Found:
    """The gradient of a row's loss with respect to z of the first view (n, d).

    `terms`: total = pull + push, balance 1 (it stands inside). `balance`: the mean over samples of the factor in the
    row's closed form. `radial`: the share of the gradient at the objective's input that points along the embedding.
    """

    terms: GradientTerms
    balance: float
    radial: float


def uses_others(row: Method) -> bool:
    """Whether the row remembers earlier samples."""
    return row.bank > 0 or row.objective in ("prototypes", "composed")


def ready(row: Method, given: Embeddings, seed: int, own: Siamese | None = None, as_trained: bool = False) -> Ready:
    """The row, its state set on these embeddings, in float64.

    F and predictors are set from this batch alone, banks and centres filled from the other samples, weights drawn by
    the seed. `own` is a trained network of this very row: weights (of a predictor, of prototypes) are then its own,
    and with `as_trained` so are running statistics, bank and centre, and this batch is one more step.

    Raises:
        ObjectiveError, NetworkError: the row cannot be used with these embeddings.
    """
    if own is not None and as_trained:
        model = copy.deepcopy(own).cpu().double().train()
        _set(model, given.pairs)
        return Ready(row, model, ("weights, bank and running statistics are the run's own",))
    row, remarks = _fitted(row, given)
    try:
        model = _made(row, given, seed, own)
    except ObjectiveError:
        samples, width = given.pairs.online[0].shape
        if row.objective != "whitening" or row.eps >= SHRINKAGE or samples <= width:
            raise
        row = replace(row, eps=SHRINKAGE)
        model = _made(row, given, seed, own)
        remarks.append(f"the covariance is singular: whitened with eps {SHRINKAGE:g}")
    return Ready(row, model, (*remarks, *_described(row, "the run's own" if own else "newly initialised")))


def _made(row: Method, given: Embeddings, seed: int, own: Siamese | None) -> Siamese:
    """Predictor, normaliser and objective of the row, with their state."""
    model = _new(row, given.pairs.online[0].shape[1], seed)
    if own is not None:
        _take_weights(model, own)
    _fill(model, given.others)
    _set(model, given.pairs)
    u = _seen(model, given.pairs.online)
    model.objective.gradient_terms(u, [model.normalise(t) for t in given.pairs.targets(row)], 0)  # or it refuses
    return model


def _take_weights(model: Siamese, own: Siamese) -> None:
    """What training learnt beside the encoder; the target's copy of prototypes is that of the online ones."""
    if model.row.predictor not in SET_BY_STATISTICS:
        model.predictor.load_state_dict(own.predictor.state_dict())
    with torch.no_grad():
        for mine, trained in zip(model.objective.parameters(), own.objective.parameters(), strict=True):
            mine.copy_(trained)
    model.objective.update_target(0.0)


def _fitted(row: Method, given: Embeddings) -> tuple[Method, list[str]]:
    """The row with a bank no larger than the samples that can fill it."""
    if not row.bank:
        return row, []
    keys = sum(len(z) for views in given.others for z in views.targets(row))
    if not keys:
        raise ObjectiveError("a memory bank needs other samples than the compared ones, and there are none")
    if keys >= row.bank:
        return row, []
    return replace(row, bank=keys), [f"bank of {keys} keys in place of {row.bank}"]


def _new(row: Method, width: int, seed: int) -> Siamese:
    """Predictor, normaliser, objective and regulariser of the row; the encoder is a stub, and so is a teacher."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        target = "detached" if row.target == "teacher" else row.target
        stub = replace(row, projector=Head(layers=1, hidden=1, out=width), projector_scale=1.0, target=target)
        return Siamese(nn.Identity(), 1, stub).double().train()


def _fill(model: Siamese, others: Sequence[Views]) -> None:
    """Banks take the other samples' keys, centres follow them."""
    bank = model.row.bank
    for views in others:
        size = len(views.online[0]) if not bank else max(min(len(views.online[0]), bank // 2), 1)
        targets = views.targets(model.row)
        for part in zip(*(torch.split(z, size) for z in (*views.online, *targets)), strict=True):
            u, t = _seen(model, list(part[:2])), [model.normalise(z) for z in part[2:]]
            if len(part[0]) == size or not bank:
                model.objective.commit(u, t)


def _seen(model: Siamese, z: Sequence[Tensor]) -> list[Tensor]:
    with torch.no_grad():
        return [model.normalise(model.predictor(x)) for x in z]


def _set(model: Siamese, views: Views) -> None:
    """Statistics follow this batch, as at the start of a training step."""
    target = views.targets(model.row)
    with torch.no_grad():
        model.predictor.prepare(list(views.online), target)
        u = _seen(model, views.online)
        model.objective.prepare(u, [model.normalise(t) for t in target])


def _described(row: Method, weights: str) -> list[str]:
    """What was set, and from what; `weights`: where learnt weights come from."""
    out = []
    if row.predictor in SET_BY_STATISTICS:
        out.append("predictor set from these embeddings")
    elif row.predictor != "none":
        out.append(f"predictor {weights}")
    if row.objective == "spectral":
        out.append("F of these embeddings")
    if row.objective == "prototypes":
        out.append(f"prototypes {weights}")
    if row.target == "teacher":
        out.append("the other view in place of the teacher")
    return out


# ------------------------------------------------------------------------------------------ the gradient


def gradient_of(subject: Ready, views: Views, view: int = 0) -> Found:
    """The gradient of the row's loss with respect to z of one view, on the whole batch; z is float64.

    With normalise 'l2' the positive term is the pull before the normaliser, through the predictor, and the negative is
    all the rest: the objective's push, and what the normaliser takes off along the prediction. Through a predictor the
    latter is the push that keeps an asymmetric method apart, lambda J'p (reference: Tao et al. 2022, arXiv:2112.05141);
    without one it is radial. With other normalisers each term goes back by itself. Where the target is shared and there
    is a predictor, the gradient through the target's role is added to the positive term. A regulariser is part of the
    negative term: its own, of these embeddings.
    """
    row, model = subject.row, subject.model
    leaf = views.online[view].detach().clone().requires_grad_()
    with torch.enable_grad():
        p = model.predictor(leaf)
        u = model.normalise(p)
    online = _seen(model, views.online)
    online[view] = u.detach()
    same = row.target == "shared" and row.predictor == "none"
    target = list(online) if same else [model.normalise(t) for t in views.targets(row)]
    with torch.no_grad():
        terms = model.objective.gradient_terms(online, target, view, shared=same)
        push = terms.balance * terms.negative
    if row.normalise == "l2":
        length = torch.linalg.vector_norm(p.detach(), dim=1, keepdim=True).clamp_min(1e-12)
        positive = terms.positive / length
        negative = positive + _back(u, p, push - terms.positive)
    else:
        positive, negative = (_back(u, p, part) for part in (terms.positive, push))
    positive, negative = (_back(p, leaf, part) for part in (positive, negative))
    if row.target == "shared" and not same:
        positive = positive - _target_role(model, online, views, view) / terms.scale
    if model.regulariser is not None:
        further = row.regulariser_weight * model.regulariser.gradient_terms(list(views.online), view).total
        negative = negative + further / terms.scale
    size = float(torch.linalg.vector_norm(terms.total))
    along = float(torch.linalg.vector_norm(radial(terms.total, u.detach()))) / size if size else 0.0
    through = GradientTerms(positive.detach(), negative.detach(), positive.new_ones(()), terms.scale)
    return Found(through, _balance(row, terms, leaf.detach(), p.detach(), u.detach()), along)


def _back(out: Tensor, leaf: Tensor, gradient: Tensor) -> Tensor:
    """The gradient at `leaf`, given that at `out`."""
    if out is leaf:
        return gradient
    (found,) = torch.autograd.grad(out, leaf, gradient, retain_graph=True)
    return found


def _target_role(model: Siamese, online: Sequence[Tensor], views: Views, view: int) -> Tensor:
    """What flows through this view as a shared target, the predictions held fixed."""
    leaf = views.online[view].detach().clone().requires_grad_()
    with torch.enable_grad():
        target = [model.normalise(leaf if j == view else z) for j, z in enumerate(views.online)]
        loss = model.objective(list(online), target)
    if not loss.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(loss, leaf)
    return found


def _balance(row: Method, terms: GradientTerms, z: Tensor, p: Tensor, u: Tensor) -> float:
    """The mean balance factor; without a push in the objective, the predictor's lambda for z of length one."""
    felt = torch.linalg.vector_norm(tangent(terms.balance * terms.negative, u))
    if row.predictor == "none" or row.normalise != "l2" or felt > 1e-12 * torch.linalg.vector_norm(terms.positive):
        return float(terms.balance.mean())
    length = torch.linalg.vector_norm(z, dim=1)
    return float((length * (p * terms.positive).sum(1) / p.square().sum(1).clamp_min(1e-24)).mean())
