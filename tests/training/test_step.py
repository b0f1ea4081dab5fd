"""The step: accumulation, clipping, precision, and views that depend on (seed, step) alone."""

from dataclasses import replace

import pytest
import torch

from siamscope.recipe import RecipeError
from siamscope.training.build import Normalisation, build_model, build_trainer
from siamscope.training.distributed import World
from siamscope.training.precision import Precision, choose
from siamscope.training.step import seeded

NORM = Normalisation((0.5,) * 3, (0.25,) * 3)


def images(n: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def trainer(recipe, precision=None):
    return build_trainer(recipe, 3, 3, NORM, World(), precision or Precision())


def test_accumulation_is_the_mean_over_parts(small):
    """The gradient of two parts is the mean of the parts' gradients, each with its own batch statistics."""
    state = trainer(small(train={"accumulate": 2}))
    state.step(1, images())
    got = torch.cat([p.grad.flatten() for p in state.model.online.parameters()])
    model = build_model(state.recipe, 3).train()
    generator = seeded(0, 1, 0)
    for part in images().chunk(2):
        (model(state.make_views(part, generator)) / 2).backward()
    expected = torch.cat([p.grad.flatten() for p in model.online.parameters()])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-8)
    whole = trainer(small())
    whole.step(1, images())
    assert not torch.allclose(got, torch.cat([p.grad.flatten() for p in whole.model.online.parameters()]), rtol=1e-2)


def test_accumulation_must_divide_a_process_share(small):
    with pytest.raises(RecipeError, match="accumulate"):
        build_trainer(small(train={"accumulate": 32}), 3, 3, NORM, World(size=2), Precision())


def test_a_part_of_one_image_is_refused_where_batch_norm_needs_two(small):
    with pytest.raises(RecipeError, match="1 image a part"):
        trainer(small(train={"accumulate": 32}))
    state = trainer(small(train={"accumulate": 16}))
    assert torch.isfinite(state.step(1, images()))


def test_clipping_bounds_the_norm(small):
    free, clipped = trainer(small()), trainer(small(optim={"clip_norm": 1e-3}))
    for state in (free, clipped):
        state.step(1, images())
    assert free.gradient_norm() > 1e-2
    assert clipped.gradient_norm() == pytest.approx(free.gradient_norm(), rel=1e-4)  # what it was before
    after = torch.cat([p.grad.flatten() for p in clipped.model.parameters() if p.grad is not None]).norm()
    assert after == pytest.approx(1e-3, rel=1e-3)


def test_a_step_depends_on_its_number_alone(small):
    a, b = trainer(small()), trainer(small())
    torch.manual_seed(99)
    torch.rand(17)
    first = a.make_views(images(), seeded(0, 5, 0))
    assert all(torch.equal(x, y) for x, y in zip(first, b.make_views(images(), seeded(0, 5, 0)), strict=True))
    assert not torch.equal(first[0], b.make_views(images(), seeded(0, 6, 0))[0])
    assert not torch.equal(first[0], b.make_views(images(), seeded(1, 5, 0))[0])
    assert not torch.equal(first[0], first[1])


def test_ranks_draw_their_rows_of_the_same_views(small):
    one = trainer(small())
    whole = one.make_views(images(), seeded(0, 3, 0))[0]
    for rank in (0, 1):
        two = replace(one, world=World(rank, 2))
        part = two.make_views(images()[16 * rank : 16 * rank + 16], seeded(0, 3, rank))[0]
        assert torch.equal(part, whole[16 * rank : 16 * rank + 16])


def test_bf16_is_near_float32_and_statistics_stay_float32(small):
    full, half = trainer(small()), trainer(small(), Precision(bf16=True, channels_last=True))
    losses = [state.step(1, images()) for state in (full, half)]
    assert losses[1].dtype == torch.float32
    assert losses[1].item() == pytest.approx(losses[0].item(), abs=0.03)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_the_probe_takes_the_fastest_and_respects_the_recipe():
    seconds = {(False, False): 4.0, (False, True): 3.0, (True, False): 2.0, (True, True): 1.0}
    asked = []

    def time_it(p):
        asked.append((p.bf16, p.channels_last))
        return seconds[asked[-1]]

    assert choose("auto", "auto", time_it)[0] == Precision(True, True)
    assert len(asked) == 4
    assert choose("fp32", "auto", time_it)[0] == Precision(False, True)
    seconds |= {(False, True): 3.9, (True, False): 3.8, (True, True): 3.7}  # a gain within the noise
    assert choose("auto", "auto", time_it)[0] == Precision(False, False)
    asked.clear()
    assert choose("bf16", "off", time_it) == (Precision(True, False), {})
    assert asked == []
