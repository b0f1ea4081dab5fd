"""Collapse seen from any training loop: the spectrum of the embeddings that pass by, without labels or extra images.

>>> import numpy as np
>>> monitor, rng = CollapseMonitor(d=32), np.random.default_rng(0)
>>> for step in range(1, 101):
...     monitor.update(rng.normal(size=(256, 32)))
>>> monitor.report(step).alarm.state
'quiet'

A look at fixed images in eval mode (`siamscope.collapse.measure`, `siamscope.collapse.alarm`) sees more: what passes by
is augmented, older rows come from older weights, and a batch norm behind which embeddings are taken gives every
dimension its spread back in training mode. Take them before it, or take the backbone's features.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy.linalg import blas

from siamscope.collapse.alarm import Alarm, Limits, Look, Watching, advance
from siamscope.collapse.arrays import Array, is_tensor, like, require_matrix, rounding_of, to_numpy
from siamscope.collapse.errors import CollapseError
from siamscope.collapse.health import SAMPLES_PER_DIMENSION, Vitals
from siamscope.collapse.scores import auc, effective_rank
from siamscope.collapse.spectrum import is_point


class CollapseWarning(UserWarning):
    """The embeddings of a training are collapsing, or have collapsed."""


@dataclass(frozen=True)
class Report:
    """What the monitor has seen after `step` steps.

    Attributes:
        vitals: of the rows in memory; `n` is how many equally weighted ones they are worth.
        auc_slope: change of the AUC a step over the last reports (median of the slopes between any two), 0 at first.
        alarm: quiet, suspect or alarm, with its reasons; `siamscope.collapse.alarm` has the rules.
    """

    step: int
    vitals: Vitals
    auc_slope: float
    alarm: Alarm


class CollapseMonitor:
    """Mean and scatter of a stream of rows that fade with age: O(d^2) memory, whatever is seen.

    Args:
        d: dimensions.
        memory: rows after which a row's weight has fallen to 1/e; inf = all rows count alike. The default 8 d makes the
            rows in memory worth 16 d equal ones, which sampling moves the AUC of by less than .01.
        dtype: of the sums over a batch and of the state. Rows are taken from the batch's mean, so a large offset costs
            few digits; float32 moves the AUC by less than 1e-5 and is over twice as fast. In float32, singular values
            below 1e-3 of the largest and an embedding std below 1e-3 are rounding noise.
        limits: of the alarm.
    """

    def __init__(
        self,
        d: int,
        *,
        memory: float | None = None,
        dtype: Literal["float32", "float64"] = "float32",
        limits: Limits | None = None,
    ) -> None:
        if d < 1:
            raise CollapseError(f"a monitor needs at least one dimension, not {d}.")
        self.memory = SAMPLES_PER_DIMENSION * d / 2 if memory is None else memory
        if not self.memory > 0:
            raise CollapseError(f"memory is a number of rows above 0 (inf keeps all), not {memory}.")
        if dtype not in ("float32", "float64"):
            raise CollapseError(f"dtype must be 'float32' or 'float64', not {dtype!r}.")
        self.d, self.dtype, self.limits = d, dtype, limits or Limits()
        self.steps = 0
        self._weights = (0.0, 0.0)  # sum of the rows' weights, and of their squares
        self._mean: Array = np.zeros(d, dtype)
        self._scatter: Array = np.zeros((d, d), dtype, order="F")  # on the CPU only its lower triangle
        self._unit_sum: Array = np.zeros(d)
        self._unit_squares: Array = np.zeros(d)
        self._looks: list[Look] = []
        self._watching = Watching()

    def update(self, embeddings: Array) -> CollapseMonitor:
        """Take in a batch (n, d) of a step, an array or a tensor, n >= 1; gradients and half precision are dropped.

        Returns self. Raises CollapseError on a wrong shape, NaN or infinity.
        """
        require_matrix(embeddings, "a batch of embeddings")
        if embeddings.shape[1] != self.d or not embeddings.shape[0]:
            raise CollapseError(
                f"a batch of embeddings has shape {tuple(embeddings.shape)}; this monitor takes (n, {self.d}), n >= 1."
            )
        rows = self._rows(embeddings)
        n = rows.shape[0]
        squares = rows * rows
        lengths = squares.sum(1)
        if not math.isfinite(float(lengths.sum())):
            raise CollapseError(
                "a batch of embeddings holds NaN or infinite entries, or its squares overflow; look for a diverged "
                "loss or an overflow in half precision."
            )
        inverse = 1 / (lengths + (lengths == 0))
        keep = math.exp(-n / self.memory)
        old, total = keep * self._weights[0], keep * self._weights[0] + n
        mean = rows.mean(0)
        gap = mean - self._mean
        self._unit_sum = keep * self._unit_sum + inverse**0.5 @ rows
        self._unit_squares = keep * self._unit_squares + inverse @ squares
        self._scatter = _decayed(self._scatter, keep, rows - mean, gap * math.sqrt(old * n / total))
        self._mean = self._mean + n / total * gap
        self._weights = total, keep**2 * self._weights[1] + n
        self.steps += 1
        return self

    def _rows(self, embeddings: Array) -> Array:
        """The batch to compute with: numpy on the CPU, whose product of a matrix with itself takes half the work."""
        if not is_tensor(embeddings):
            return np.asarray(embeddings, self.dtype)
        x = embeddings.detach()
        x = x.double() if self.dtype == "float64" else x.float()
        if x.device.type == "cpu":
            return x.numpy()
        if not is_tensor(self._mean):
            self._scatter = like(_whole(self._scatter), x)
            for name in ("_mean", "_unit_sum", "_unit_squares"):
                setattr(self, name, like(getattr(self, name), x))
        return x

    @property
    def rows(self) -> float:
        """How many equally weighted rows those in memory are worth: (sum w)^2 / sum w^2."""
        total, squares = self._weights
        return total**2 / squares if squares else 0.0

    def vitals(self) -> Vitals:
        """Label-free numbers of the rows in memory: `siamscope.collapse.measure` of them, were they kept.

        An eigenvalue problem of O(d^3): tens of milliseconds for d = 512, so not at every step.

        Raises:
            CollapseError: fewer than two rows seen.
        """
        if self.rows < 2:
            raise CollapseError(f"a spectrum needs at least 2 rows; this monitor has seen {self._weights[0]:g}.")
        scatter = to_numpy(self._scatter)
        spread = math.sqrt(float(scatter.trace()) / self._weights[0])
        sigma = np.sqrt(np.clip(np.linalg.eigvalsh(scatter, UPLO="L")[::-1], 0, None))
        if is_point(spread, float(np.linalg.norm(to_numpy(self._mean))), rounding_of(self.dtype)):
            sigma = np.zeros(self.d)
        mean, squares = (to_numpy(x) / self._weights[0] for x in (self._unit_sum, self._unit_squares))
        variances = (squares - mean**2) * (self.rows / (self.rows - 1))
        std = float(np.sqrt(np.clip(variances, 0, None)).mean()) * math.sqrt(self.d)
        return Vitals(std, effective_rank(sigma), auc(sigma), round(self.rows), self.d)

    def report(self, step: int | None = None) -> Report:
        """Vitals, the slope of the AUC over the last reports, and the alarm, which judges one report after another.

        `step`: of the training; by default the number of updates. Raises CollapseError for a step that is not after
        that of the last report.
        """
        step = self.steps if step is None else step
        found = self.vitals()
        look = Look(step, found, _unseen(found.n, self.d))
        self._watching = advance(self._watching, look, self.limits)
        self._looks = [*self._looks, look][-self.limits.looks :]
        return Report(step, found, self._slope(), self._watching.alarm)

    def _slope(self) -> float:
        pairs = itertools.combinations(self._looks, 2)
        return float(np.median([(b.embeddings.auc - a.embeddings.auc) / (b.step - a.step) for a, b in pairs] or [0.0]))

    def state_dict(self) -> dict[str, Any]:
        """All of it as numbers, bytes and lists, which any checkpoint can hold (and load with weights_only)."""
        arrays = (self._mean, _whole(to_numpy(self._scatter)), self._unit_sum, self._unit_squares)
        return {
            "d": self.d,
            "dtype": self.dtype,
            "steps": self.steps,
            "weights": list(self._weights),
            "sums": [to_numpy(x).tobytes() for x in arrays],
            "looks": [
                [look.step, v.embedding_std, v.effective_rank, v.auc, v.n]
                for look, v in ((look, look.embeddings) for look in self._looks)
            ],
            "watching": {
                "severities": list(self._watching.severities),
                "alarm": {
                    key: list(value) if isinstance(value, tuple) else value
                    for key, value in asdict(self._watching.alarm).items()
                },
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            CollapseError: a state of another number of dimensions or type.
        """
        if (state["d"], state["dtype"]) != (self.d, self.dtype):
            raise CollapseError(
                f"the state is of a monitor of {state['d']} dimensions in {state['dtype']}, this one has {self.d} in "
                f"{self.dtype}."
            )
        mean, scatter, self._unit_sum, self._unit_squares = (np.frombuffer(x).copy() for x in state["sums"])
        self._mean = mean.astype(self.dtype)
        self._scatter = np.asfortranarray(scatter.reshape(self.d, self.d), self.dtype)
        self.steps, self._weights = state["steps"], (state["weights"][0], state["weights"][1])
        self._looks = [
            Look(step, Vitals(std, rank, area, n, self.d), _unseen(n, self.d))
            for step, std, rank, area, n in state["looks"]
        ]
        found = state["watching"]
        severities = tuple(found["severities"])
        alarm: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in found["alarm"].items()}
        recent = tuple(self._looks[len(self._looks) - len(severities) :])
        self._watching = Watching(recent, severities, Alarm(**alarm))


def _decayed(scatter: Array, keep: float, centred: Array, gap: Array) -> Array:
    """keep * scatter + centred^T centred + gap gap^T, in place where it can be."""
    if is_tensor(centred):
        return scatter.addmm_(centred.T, centred, beta=keep).addr_(gap, gap)
    name = "d" if scatter.dtype == np.float64 else "s"
    square, outer = getattr(blas, f"{name}syrk"), getattr(blas, f"{name}syr")
    scatter = square(1.0, centred.T, keep, scatter, lower=1, overwrite_c=1)
    return outer(1.0, gap, lower=1, a=scatter, overwrite_a=1)


def _whole(scatter: Array) -> Array:
    """A symmetric matrix of which the lower triangle is given."""
    return np.tril(scatter) + np.tril(scatter, -1).T


def _unseen(n: int, d: int) -> Vitals:
    """In the place of the alarm's second set of features: nothing wrong with it."""
    return Vitals(1.0, float(d), (d + 1) / (2 * d), n, d)


def _agreed(trainer: Any, stop: bool) -> bool:
    """Whether any process wants to stop, where the trainer can ask them; all of them report at the same steps."""
    ask = getattr(getattr(trainer, "strategy", None), "reduce_boolean_decision", None)
    return bool(ask(stop, all=False)) if ask else stop


class CollapseCallback:
    """A `CollapseMonitor` under the names of Lightning's hooks; no part of Lightning is imported.

    Lightning asks that callbacks are of its own class, so join the two:

        class Watch(CollapseCallback, lightning.pytorch.Callback): ...
        Trainer(callbacks=[Watch(d=256)])

    and return {"loss": loss, "embeddings": z.detach()} from `training_step`. Figures go to `pl_module.log_dict` if the
    module has it, a change of the alarm for the worse becomes a CollapseWarning, and the state travels in checkpoints.
    With several processes each watches its own share of every batch and may warn alone; they stop together as soon as
    one has an alarm, and the checkpoint holds what its writer has seen.

    Args:
        d: dimensions of the embeddings.
        embeddings: the key under which `training_step` returns them, or a function of (outputs, batch, module).
        every: steps between two reports.
        stop: end the training at an alarm (`trainer.should_stop`).
        options: of CollapseMonitor.
    """

    def __init__(
        self,
        d: int,
        *,
        embeddings: str | Callable[[Any, Any, Any], Array] = "embeddings",
        every: int = 100,
        stop: bool = False,
        **options: Any,
    ) -> None:
        if every < 1:
            raise CollapseError(f"every is a number of steps of at least 1, not {every}.")
        self.monitor = CollapseMonitor(d, **options)
        self.embeddings, self.every, self.stop = embeddings, every, stop
        self.last: Report | None = None

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Take in the step's embeddings; every `every` steps, report."""
        self.monitor.update(self._found(outputs, batch, pl_module))
        if self.monitor.steps % self.every:
            return
        before = self.last.alarm.state if self.last else "quiet"
        self.last = self.monitor.report()
        if hasattr(pl_module, "log_dict"):
            v = self.last.vitals
            pl_module.log_dict({"auc": v.auc, "effective_rank": v.effective_rank, "embedding_std": v.embedding_std})
        order = ("quiet", "suspect", "alarm")
        if order.index(self.last.alarm.state) > order.index(before):
            warnings.warn(str(self.last.alarm), CollapseWarning, stacklevel=2)
        if self.stop and _agreed(trainer, self.last.alarm.state == "alarm"):
            trainer.should_stop = True

    def _found(self, outputs: Any, batch: Any, pl_module: Any) -> Array:
        if not isinstance(self.embeddings, str):
            return self.embeddings(outputs, batch, pl_module)
        if not isinstance(outputs, Mapping) or self.embeddings not in outputs:
            raise CollapseError(
                f"training_step must return a dictionary with the key {self.embeddings!r}, or give the callback a "
                "function embeddings=(outputs, batch, module)."
            )
        return outputs[self.embeddings]

    def state_dict(self) -> dict[str, Any]:
        """The monitor's state."""
        return self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.monitor.load_state_dict(state_dict)
