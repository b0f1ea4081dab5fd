"""Training from a gradient in place of a loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from siamscope.objectives import Group, Objective
from siamscope.objectives.regularisers import Regulariser


def surrogate(
    objective: Objective,
    online: Sequence[Tensor],
    target: Sequence[Tensor],
    *,
    shared: bool = False,
    group: Group | None = None,
) -> Tensor:
    """A scalar whose value is the objective's loss and whose backward is the closed form of its gradient.

    `online`, `target`: this process's rows (n, d), one tensor a view, as for `objective.forward`, after
    `objective.prepare`. The embeddings of all processes are gathered, the gradient is taken on the whole batch, and
    the rows of this process are multiplied by the number of processes, because data-parallel training averages the
    parameters' gradients. The objective's own parameters receive `parameter_gradients`.

    `shared`: gradient flows through the targets as well. Give the online tensors themselves as targets
    (`target[j] is online[j]`) and both roles come in closed form. Where the targets are other tensors (there is a
    predictor), the closed form covers the online role, and the target's role is differentiated by autograd.

    An objective without a loss (`Composed`) reports the sum over views and samples of <dL/du, u>, for the rows of this
    process times the number of processes: the loss itself where the loss is linear in u (minus the mean cosine), and
    minus the pull plus the push in general; below zero while samples are pulled more than pushed.

    Not finite in, not finite out. Source: Tao et al. 2022 (arXiv:2112.05141), whose released code trains every method
    from (gradient, detached) * u; there the logged value is that product, not the loss.

    Raises:
        ObjectiveError: the objective refuses the embeddings.
    """
    group = group or _group_of(objective)
    # Each tensor travels once: shared targets are the online tensors themselves.
    gathered = {key: group.gather(z.detach()) for key, z in {id(z): z for z in (*online, *target)}.items()}
    everyone_online, everyone_target = ([gathered[id(z)] for z in branch] for branch in (online, target))
    same = shared and all(t is u for t, u in zip(target, online, strict=False))
    own = slice(group.rank * len(online[0]), (group.rank + 1) * len(online[0]))
    products = []
    for view, u in enumerate(online):
        with torch.no_grad():
            terms = objective.gradient_terms(everyone_online, everyone_target, view, shared=same)
            gradient = group.world_size * terms.total[own]
        products.append((gradient * u).sum())
    own_weights = objective.parameter_gradients(everyone_online, everyone_target)
    through = [*products, *((gradient.detach() * w).sum() for w, gradient in own_weights)]
    if shared and not same:
        through.append(_target_role(objective, online, target))
    total = torch.stack(through).sum()
    return _value(objective, online, target, products) + (total - total.detach())


def regularised(regulariser: Regulariser, z: Sequence[Tensor], group: Group | None = None) -> Tensor:
    """The same of a regulariser: its loss as value, the closed form of its gradient in the backward. `z` as there."""
    group = group or regulariser.group
    everyone = [group.gather(view.detach()) for view in z]
    own = slice(group.rank * len(z[0]), (group.rank + 1) * len(z[0]))
    products = []
    for index, view in enumerate(z):
        with torch.no_grad():
            gradient = group.world_size * regulariser.gradient_terms(everyone, index).total[own]
        products.append((gradient * view).sum())
    with torch.no_grad():
        value: Tensor = regulariser([view.detach() for view in z])
    total = torch.stack(products).sum()
    return value + (total - total.detach())


def _value(
    objective: Objective, online: Sequence[Tensor], target: Sequence[Tensor], products: Sequence[Tensor]
) -> Tensor:
    with torch.no_grad():
        if getattr(objective, "has_loss", True):
            # One tensor in both roles stays one, which the objective then gathers once.
            fixed = {id(z): z.detach() for z in (*online, *target)}
            loss: Tensor = objective([fixed[id(u)] for u in online], [fixed[id(t)] for t in target])
            return loss
        return torch.stack(list(products)).sum().detach()


def _target_role(objective: Objective, online: Sequence[Tensor], target: Sequence[Tensor]) -> Tensor:
    """The sum of <dL/dt, t>, dL/dt by autograd with the online embeddings and the objective's weights held fixed."""
    leaves = [t.detach().requires_grad_() for t in target]
    with torch.enable_grad():
        loss: Tensor = objective([u.detach() for u in online], leaves)
    if not loss.requires_grad:  # targets that pass no gradient (nearest neighbours)
        return loss.new_zeros(())
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True)
    products = [(g * t).sum() for g, t in zip(gradients, target, strict=True) if g is not None]
    return torch.stack(products).sum()


def _group_of(objective: Objective) -> Group:
    """The group that the objective itself gathers with."""
    group = getattr(objective, "group", None)
    return group if isinstance(group, Group) else Group()
