"""The monitor for any training loop: what it keeps, what it says, and that it goes on where it stopped."""

import io
import math
import warnings

import numpy as np
import pytest
import torch

from siamscope import collapse
from siamscope.collapse import CollapseError
from siamscope.collapse.monitor import CollapseCallback, CollapseMonitor, CollapseWarning


def batches(count=30, n=64, d=12, seed=0, offset=0.0):
    rng = np.random.default_rng(seed)
    scale = np.arange(1, d + 1) ** -0.7
    return [rng.normal(size=(n, d)) * scale + offset for _ in range(count)]


def test_without_fading_it_is_the_spectrum_of_all_rows():
    seen = batches(n=37)
    monitor = CollapseMonitor(12, memory=math.inf, dtype="float64")
    for batch in seen:
        monitor.update(batch)
    found, expected = monitor.vitals(), collapse.measure(np.concatenate(seen))
    assert found.n == expected.n == 30 * 37
    assert found.auc == pytest.approx(expected.auc, abs=1e-12)
    assert found.effective_rank == pytest.approx(expected.effective_rank, rel=1e-12)
    assert found.embedding_std == pytest.approx(expected.embedding_std, rel=1e-10)


def test_fading_rows_in_closed_form():
    """Each row weighs exp(-rows since its batch / memory); mean, scatter and worth of the weighted rows."""
    seen, memory = [b[: 20 + 5 * k] for k, b in enumerate(batches(8, offset=2.0))], 150.0
    monitor = CollapseMonitor(12, memory=memory, dtype="float64")
    for batch in seen:
        monitor.update(batch)
    sizes = np.array([len(b) for b in seen])
    later = sizes.sum() - np.cumsum(sizes)
    w = np.repeat(np.exp(-later / memory), sizes)
    rows = np.concatenate(seen)
    centred = rows - w @ rows / w.sum()
    sigma = np.sqrt(np.linalg.eigvalsh((centred * w[:, None]).T @ centred)[::-1])
    found = monitor.vitals()
    assert monitor.rows == pytest.approx(w.sum() ** 2 / (w**2).sum(), rel=1e-12)
    assert found.auc == pytest.approx(collapse.auc(sigma), abs=1e-12)
    assert abs(found.auc - collapse.measure(rows).auc) > 1e-4  # fading counts here
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    spread = w @ (unit - w @ unit / w.sum()) ** 2 / w.sum() * monitor.rows / (monitor.rows - 1)
    assert found.embedding_std == pytest.approx(np.sqrt(spread).mean() * math.sqrt(12), rel=1e-10)


def test_float32_is_near_enough_also_with_an_offset():
    """The scatter is taken about each batch's mean; the sum of squares in float32 fails the same test."""
    seen = batches(offset=1000.0)
    exact, rough = CollapseMonitor(12, dtype="float64"), CollapseMonitor(12)
    naive = np.zeros((12, 12), np.float32)
    for batch in seen:
        exact.update(batch)
        rough.update(batch.astype(np.float32))
        naive += batch.T.astype(np.float32) @ batch.astype(np.float32)
    assert rough.vitals().auc == pytest.approx(exact.vitals().auc, abs=1e-5)
    rows = np.concatenate(seen)
    mean = rows.mean(0)
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(naive - len(rows) * np.outer(mean, mean))[::-1], 0, None))
    assert abs(collapse.auc(sigma) - collapse.measure(rows).auc) > 1e-3


def test_tensors_are_arrays():
    """With a graph, in half precision; nothing of the graph or of the batch is kept or changed."""
    seen = [b.astype(np.float32) for b in batches()]
    ours, theirs = CollapseMonitor(12), CollapseMonitor(12)
    for batch in seen:
        ours.update(batch)
        z = torch.from_numpy(batch.copy()).requires_grad_()
        theirs.update(z * 1)
        assert torch.equal(z.detach(), torch.from_numpy(batch))
    assert theirs.vitals() == ours.vitals()
    half = CollapseMonitor(12)
    for batch in seen:
        half.update(torch.from_numpy(batch).bfloat16())
    assert half.vitals().auc == pytest.approx(ours.vitals().auc, abs=2e-3)


def test_a_device_of_its_own():
    """State that lives in tensors (as on a GPU) follows the same recursion: forced here on the CPU."""
    ours, theirs = CollapseMonitor(12, dtype="float64"), CollapseMonitor(12, dtype="float64")
    seen = batches()
    theirs.update(seen[0])
    state = [torch.tensor(np.tril(theirs._scatter) + np.tril(theirs._scatter, -1).T)]
    state += [torch.tensor(x) for x in (theirs._mean, theirs._unit_sum, theirs._unit_squares)]
    theirs._scatter, theirs._mean, theirs._unit_sum, theirs._unit_squares = state
    theirs._rows = lambda batch: torch.from_numpy(batch)
    ours.update(seen[0])
    for batch in seen[1:]:
        ours.update(batch)
        theirs.update(batch)
    assert theirs.vitals().auc == pytest.approx(ours.vitals().auc, abs=1e-12)
    assert theirs.vitals().embedding_std == pytest.approx(ours.vitals().embedding_std, rel=1e-12)


def falling(step, rng, d=32, n=128):
    """Embeddings that lose directions, askew to the axes: standard deviations k^-a with a growing."""
    turn = np.linalg.qr(np.random.default_rng(5).normal(size=(d, d)))[0]
    return rng.normal(size=(n, d)) * np.arange(1, d + 1.0) ** (-step / 120) @ turn


def test_dimensional_collapse_raises_the_alarm_and_health_does_not():
    rng = np.random.default_rng(0)
    ill, well = CollapseMonitor(32), CollapseMonitor(32)
    states, slopes = [], []
    for step in range(1, 601):
        ill.update(falling(step, rng))
        well.update(falling(60, rng))
        if step % 20 == 0:
            report = ill.report(step)
            states.append(report.alarm.state)
            slopes.append(report.auc_slope)
            healthy = well.report(step)
            assert healthy.alarm.state == "quiet"
            assert abs(healthy.auc_slope) < 2e-4
    assert states[0] == "quiet" and "suspect" in states and states[-1] == "alarm"
    assert report.alarm.kind == "dimensional"
    assert not any("backbone" in reason for reason in report.alarm.reasons)
    assert slopes[0] == 0
    assert np.median(slopes[3:15]) > 3e-4


def test_complete_collapse_is_told_apart():
    rng = np.random.default_rng(0)
    monitor = CollapseMonitor(16)
    for step in range(1, 201):
        monitor.update(1 + rng.normal(size=(64, 16)) * 0.97**step)
        if step % 20 == 0:
            report = monitor.report(step)
    assert (report.alarm.state, report.alarm.kind) == ("alarm", "complete")
    assert report.vitals.embedding_std < 0.1


def test_the_state_is_constant_in_size():
    monitor = CollapseMonitor(64)
    sizes = []
    for batch in batches(12, d=64):
        monitor.update(batch)
        sizes.append(sum(map(len, monitor.state_dict()["sums"])))
    assert len(set(sizes)) == 1
    assert sizes[0] == 8 * (64 * 64 + 3 * 64)
    small, kept = CollapseMonitor(4), []
    for step, batch in enumerate(batches(300, n=8, d=4), 50):
        small.update(batch).report(step)
        kept.append((len(small._looks), len(small.state_dict()["looks"])))
    assert kept[-1] == kept[10] == (small.limits.looks, small.limits.looks)


def test_goes_on_bit_for_bit():
    """Saved in the middle, through a file that is read without unpickling anything."""
    rng = np.random.default_rng(1)
    seen = [falling(step, rng) for step in range(1, 301)]
    whole, cut = CollapseMonitor(32), CollapseMonitor(32)
    for step, batch in enumerate(seen, 1):
        whole.update(batch)
        last = whole.report(step) if step % 20 == 0 else None
    for step, batch in enumerate(seen, 1):
        if step == 151:
            stream = io.BytesIO()
            torch.save(cut.state_dict(), stream)
            stream.seek(0)
            cut = CollapseMonitor(32)
            cut.load_state_dict(torch.load(stream, weights_only=True))
        cut.update(batch)
        mine = cut.report(step) if step % 20 == 0 else None
    assert mine == last
    assert mine.alarm.state != "quiet"
    with pytest.raises(CollapseError, match="32 dimensions in float32, this one has 16"):
        CollapseMonitor(16).load_state_dict(cut.state_dict())


class Module:
    """Stands for a LightningModule."""

    def __init__(self):
        self.logged = []

    def log_dict(self, figures):
        self.logged.append(figures)


class Trainer:
    should_stop = False


class Base:
    """Stands for lightning.pytorch.Callback: hooks that do nothing."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        raise AssertionError("the base class's hook was called")

    def state_dict(self):
        return {}


class Watch(CollapseCallback, Base):
    pass


def test_as_a_callback():
    rng = np.random.default_rng(0)
    watch, trainer, module = Watch(32, every=20, stop=True), Trainer(), Module()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(1, 601):
            z = torch.from_numpy(falling(step, rng))
            watch.on_train_batch_end(trainer, module, {"loss": z.sum(), "embeddings": z}, None, step - 1)
            if trainer.should_stop:
                break
    said = [str(w.message) for w in caught if issubclass(w.category, CollapseWarning)]
    assert len(said) == 2 and "suspect" in said[0] and "alarm" in said[1]
    assert watch.last.alarm.state == "alarm" and step < 600
    assert len(module.logged) == step // 20
    assert module.logged[-1]["effective_rank"] == watch.last.vitals.effective_rank
    other = Watch(32, every=20)
    other.load_state_dict(watch.state_dict())
    assert other.monitor.vitals() == watch.monitor.vitals()


def test_processes_stop_together():
    """The strategy's answer counts, not the own alarm; it is asked at every report, or others would wait."""

    class Strategy:
        def __init__(self, answer):
            self.answer, self.asked = answer, []

        def reduce_boolean_decision(self, decision, all=True):
            self.asked.append((decision, all))
            return self.answer

    z = np.random.default_rng(0).normal(size=(64, 4))
    for answer in (False, True):
        trainer, watch = Trainer(), CollapseCallback(4, every=1, stop=True)
        trainer.strategy = Strategy(answer)
        for _ in range(3):
            watch.on_train_batch_end(trainer, None, {"embeddings": z}, None, 0)
        assert trainer.strategy.asked == [(False, False)] * 3
        assert trainer.should_stop is answer


def test_where_the_callback_finds_embeddings():
    z = np.random.default_rng(0).normal(size=(8, 4))
    by_function = CollapseCallback(4, embeddings=lambda outputs, batch, module: batch["z"])
    by_function.on_train_batch_end(None, None, None, {"z": z}, 0)
    assert by_function.monitor.steps == 1
    for outputs in ({"loss": 1.0}, torch.tensor(1.0), None):
        with pytest.raises(CollapseError, match="key 'embeddings'"):
            CollapseCallback(4).on_train_batch_end(None, None, outputs, None, 0)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: CollapseMonitor(0), "at least one dimension"),
        (lambda: CollapseMonitor(4, memory=0), "memory is a number of rows"),
        (lambda: CollapseMonitor(4, dtype="half"), "dtype must be"),
        (lambda: CollapseCallback(4, every=0), "every is a number of steps"),
        (lambda: CollapseMonitor(4).vitals(), "at least 2 rows"),
        (lambda: CollapseMonitor(4).update(np.ones((1, 4))).vitals(), "at least 2 rows"),
        (lambda: CollapseMonitor(4).update(np.ones((3, 5))), r"\(3, 5\)"),
        (lambda: CollapseMonitor(4).update(np.ones((0, 4))), r"\(0, 4\)"),
        (lambda: CollapseMonitor(4).update(np.ones(4)), "shape"),
        (lambda: CollapseMonitor(4).update(np.full((3, 4), np.nan)), "NaN or infinite"),
        (lambda: CollapseMonitor(4).update(np.full((3, 4), 1e30)), "overflow"),
    ],
)
def test_bad_input(call, word):
    with np.errstate(all="ignore"), pytest.raises(CollapseError, match=word):
        call()


def test_constant_rows_are_complete_collapse():
    monitor = CollapseMonitor(4).update(np.full((8, 4), 3.0)).update(np.full((8, 4), 3.0))
    found = monitor.vitals()
    assert (found.auc, found.effective_rank) == (1.0, 1.0)
    assert found.embedding_std < 1e-3
    rng = np.random.default_rng(0)
    rounding = CollapseMonitor(8)
    for _ in range(20):
        rounding.update((3 * (1 + 6e-8 * rng.normal(size=(64, 8)))).astype(np.float32))
    assert np.ptp(rounding._scatter) > 0 and rounding.vitals().effective_rank == 1
    spread = CollapseMonitor(8).update((3 * (1 + 1e-5 * rng.normal(size=(64, 8)))).astype(np.float32))
    assert spread.vitals().effective_rank > 6
    zeros = CollapseMonitor(4).update(np.zeros((8, 4))).vitals()
    assert (zeros.auc, zeros.embedding_std) == (1.0, 0.0)


def test_a_report_must_come_after_the_last():
    monitor = CollapseMonitor(4).update(batches(1, d=4)[0])
    monitor.report(60)
    with pytest.raises(CollapseError, match="step 60"):
        monitor.report(60)
