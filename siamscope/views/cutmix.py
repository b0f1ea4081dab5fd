"""CutMix for Siamese views: a box of each view comes from the neighbour in the batch.

A mixed view of image i shows the share `weight` of i and the rest of its partner p = partners(n)[i]. The other branch
sees the whole views, and the loss is weight * L(u, t) + (1 - weight) * L(u, t[p]): for a loss whose pull is linear in
the target, that is the pull to weight * t + (1 - weight) * t[p].

The box is that of Yun et al. 2019 (CutMix, arXiv 1905.04899, section 3.1). UniGrad (Tao et al. 2022, arXiv 2112.05141)
reports a result with CutMix, but its code has none and its settings are not known here: one box for the whole batch,
alpha = 1 and every step mixed are this project's defaults. Only global views are mixed: those of the size of the box.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from siamscope.views.errors import ViewError


@dataclass(frozen=True)
class Mix:
    """One box, the same for all samples of a batch; false (`not mix`) if it holds no pixel, so nothing is mixed.

    Rows `top` to `bottom - 1` and columns `left` to `right - 1` of a view of `size` x `size` px.
    Raises ViewError for a box that does not lie within the view.
    """

    size: int
    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0

    def __post_init__(self) -> None:
        _check_size("Mix", self.size)
        for low, high in (("top", "bottom"), ("left", "right")):
            edges = getattr(self, low), getattr(self, high)
            if not all(_is_whole(edge) for edge in edges) or not 0 <= edges[0] <= edges[1] <= self.size:
                raise ViewError(f"Mix: {low}, {high} are {edges}; they must be whole, 0 <= {low} <= {high} <= size")

    def __bool__(self) -> bool:
        return self.pixels > 0

    @property
    def pixels(self) -> int:
        """Pixels in the box."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def weight(self) -> float:
        """Share of the pixels that stay the sample's own, after rounding and clipping: from 0 to 1."""
        return (self.size**2 - self.pixels) / self.size**2


def draw_mix(size: int, generator: torch.Generator, *, probability: float = 1.0, alpha: float = 1.0) -> Mix:
    """Draw the box of one step for views of `size` x `size` px.

    With `probability` there is a box: a square of area 1 - lam, lam ~ Beta(alpha, alpha), its side rounded to whole
    pixels, its centre uniform over the view, clipped at the border. Otherwise it is empty, with weight 1.

    Takes four numbers from `generator` (the step's CPU generator, equal on every process) whether there is a box or
    not, and none with probability 0. Call it after make_views: the views are then those of a run without CutMix.
    Raises ViewError for a size below 1, a probability outside [0, 1], or an alpha that is not finite and above 0.
    """
    _check_size("draw_mix", size)
    if not _is_number(probability) or not 0 <= probability <= 1:
        raise ViewError(f"draw_mix: probability is {probability!r}; it must be a number from 0 to 1")
    if not _is_number(alpha) or not 0 < alpha < math.inf:
        raise ViewError(f"draw_mix: alpha is {alpha!r}; it must be finite and above 0 (1 draws the area uniformly)")
    if probability == 0:
        return Mix(size)
    numbers = torch.rand(4, dtype=torch.float64, generator=generator, device=generator.device).tolist()
    applied, share, row, column = numbers
    if applied >= probability:
        return Mix(size)
    side = math.floor(size * math.sqrt(1 - _beta(share, alpha)) + 0.5)
    return Mix(size, *_edges(row, side, size), *_edges(column, side, size))


def partners(n: int) -> Tensor:
    """Index of each of `n` samples' partner, (n,) int64 on the CPU: its neighbour, 0 <-> 1, 2 <-> 3, ...

    Batches are shuffled already, so neighbours are random pairs; and no pair spans two processes or two parts of an
    accumulated batch, so the mixing does not depend on their number. Raises ViewError if n is odd or below 2.
    """
    _check_even(n)
    return torch.arange(n) ^ 1


def apply_mix(views: Tensor, mix: Mix) -> Tensor:
    """Views (n, C, size, size) in which sample i shows, inside the box, what its partner shows there.

    A new tensor of the same dtype and memory format; `views` itself (not a copy) if the mix is empty.
    Raises ViewError for views of another shape or size than the box was drawn for, and for an odd n.
    """
    if not isinstance(views, Tensor) or views.ndim != 4 or tuple(views.shape[2:]) != (mix.size, mix.size):
        shape = tuple(views.shape) if isinstance(views, Tensor) else type(views).__name__
        raise ViewError(
            f"apply_mix: views are {shape}; the box was drawn for (n, C, {mix.size}, {mix.size}): "
            "mix the global views only, or draw with their size"
        )
    if not mix:
        return views
    _check_even(len(views))
    rows, columns = slice(mix.top, mix.bottom), slice(mix.left, mix.right)
    box = views[:, :, rows, columns]
    mixed = views.clone()
    mixed[0::2, :, rows, columns] = box[1::2]  # partners() in two strided copies: no index travels to a GPU
    mixed[1::2, :, rows, columns] = box[0::2]
    return mixed


def _beta(u: float, alpha: float) -> float:
    """The number below which a Beta(alpha, alpha) variable falls with probability u."""
    if alpha == 1:
        return u
    from scipy.special import betaincinv  # only here: nothing else in this room needs scipy

    return min(1.0, max(0.0, float(betaincinv(alpha, alpha, u))))


def _edges(u: float, side: int, size: int) -> tuple[int, int]:
    """First pixel, and first pixel after, of an interval of `side` pixels with its centre at u * size, clipped."""
    first = math.floor(u * size - side / 2 + 0.5)
    return max(0, first), min(size, first + side)


def _check_size(where: str, size: object) -> None:
    if not _is_whole(size) or size < 1:  # type: ignore[operator]
        raise ViewError(f"{where}: size is {size!r}; it must be a whole number of pixels, at least 1")


def _check_even(n: int) -> None:
    if not _is_whole(n) or n < 2 or n % 2:
        raise ViewError(f"CutMix mixes pairs of neighbours: the batch of a process must be even, got n = {n!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float))


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
