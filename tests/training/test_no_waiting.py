"""A step asks no value of what is computed from images or weights, and makes as many calls for many images as for few.

On a GPU every such question waits for all that was launched; a loop over samples would show as calls that grow.
"""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from siamscope import methods
from siamscope.training.build import Normalisation, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision

ASKS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "unique", "_unique2")

WAIT = {"wmse", "corinfomax"}
"""They factorise a covariance and must know whether that has failed, to take another way or to end the run."""


class Watch(TorchDispatchMode):
    """Counts calls, and notes questions about tensors that come from the given ones.

    A tensor comes from another if a call made it of that or wrote it there; known by its memory, which is kept alive so
    that no other tensor gets the same.
    """

    def __init__(self, sources) -> None:
        super().__init__()
        self.calls, self.asked, self.alive = 0, [], []
        self.derived: set[int] = set()
        self._note(sources)

    def _note(self, tensors) -> None:
        for tensor in tensors:
            self.alive.append(tensor.untyped_storage())
            self.derived.add(self.alive[-1]._cdata)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        self.calls += 1
        out = function(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(x.untyped_storage()._cdata in self.derived for x in given):
            name = function._overloadpacket.__name__
            if name in ASKS:
                self.asked.append(name)
            self._note(x for x in tree_leaves(out) if isinstance(x, torch.Tensor))
            if function._schema.is_mutable:
                self._note(x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor))
        return out


def images(n: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def trainer(recipe):
    return build_trainer(recipe, 3, 3, Normalisation((0.5,) * 3, (0.25,) * 3), World(), Precision())


def watched(recipe, n: int = 16, then=lambda loss: None) -> Watch:
    state, batch = trainer(recipe), images(n)
    state.step(1, batch)  # the first step also makes the optimiser's state
    with Watch([batch, *state.model.parameters(), *state.model.buffers()]) as watch:
        then(state.step(2, batch))
    return watch


@pytest.mark.parametrize("method", [name for name in methods.METHODS if methods.get(name).target != "teacher"])
def test_no_step_waits(small, method):
    recipe = small(method, views={"policy": "byol", "colour": "exact"})
    assert set(watched(recipe, 32).asked) == ({"_local_scalar_dense"} if method in WAIT else set())


@pytest.mark.parametrize(
    "optim", [{"name": "lars"}, {"name": "adamw"}, {"clip_norm": 1.0}, {"name": "sgd", "decay": "per-step"}], ids=str
)
def test_no_optimiser_waits(small, optim):
    assert not watched(small("byol", optim=optim, train={"batch_size": 16})).asked


def test_asking_for_the_loss_would_be_seen(small):
    assert watched(small(train={"batch_size": 16}), then=float).asked == ["_local_scalar_dense"]
    assert watched(small(train={"batch_size": 16}), then=lambda loss: (loss > 0).nonzero()).asked == ["nonzero"]


def test_as_many_calls_for_many_images_as_for_few(small):
    def calls(n: int, colour: str) -> int:
        return watched(small(views={"colour": colour}, train={"batch_size": n}), n).calls

    assert calls(16, "fast") == calls(256, "fast")
    # exact goes by the orders of the colour operations that were drawn: 24 of them, however many images there are
    assert calls(1024, "exact") < 1.05 * calls(256, "exact")


def test_a_loop_over_images_would_be_seen(small):
    def calls(n: int) -> int:
        with Watch([]) as watch:
            for image in images(n):
                image.float().mul_(2)
        return watch.calls

    assert calls(64) > 2 * calls(16)
