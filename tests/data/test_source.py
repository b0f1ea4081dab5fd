"""Sources, splits, statistics and the configuration."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from siamscope.data import memory, shapes
from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.open import open_dataset
from siamscope.data.progress import console_progress, waiting
from siamscope.data.source import ArraySource, ShapesSource, Subset, channel_stats
from siamscope.data.splits import draw_split, three_way, validation_count

RNG = np.random.default_rng(0)


def source(count: int = 20, channels: int = 2) -> ArraySource:
    return ArraySource(RNG.integers(0, 256, (count, channels, 4, 4), np.uint8), np.arange(count) % 5)


def test_subset_reads_through() -> None:
    whole = source()
    part = Subset(whole, np.array([7, 3, 3, 19]))
    inner = Subset(part, np.array([3, 0]))
    np.testing.assert_array_equal(part.read(np.array([1, 0])), whole.images[[3, 7]])
    np.testing.assert_array_equal(inner.read(np.array([0, 1])), whole.images[[19, 7]])
    assert part.labels is not None and part.labels.tolist() == [2, 3, 3, 4]
    assert list(inner.names) == ["19", "7"] and list(part.names[1:]) == ["3", "3", "19"]
    assert (len(part), part.nbytes) == (4, 4 * 2 * 16)
    assert len({whole.fingerprint, part.fingerprint, inner.fingerprint}) == 3
    with pytest.raises(DataError, match="indices from 0 to 19"):
        Subset(whole, np.array([20]))


def test_fingerprint_follows_the_content() -> None:
    pixels = RNG.integers(0, 256, (10, 1, 4, 4), np.uint8)
    changed = pixels.copy()
    changed[9, 0, 3, 3] ^= 1
    assert ArraySource(pixels).fingerprint == ArraySource(pixels.copy()).fingerprint
    assert ArraySource(pixels).fingerprint != ArraySource(changed).fingerprint
    assert ArraySource(pixels).fingerprint != ArraySource(pixels.reshape(10, 1, 4, 4)[:5]).fingerprint


def test_refused_array_sources() -> None:
    with pytest.raises(DataError, match="N×C×S×S"):
        ArraySource(np.zeros((2, 1, 4, 5), np.uint8))
    with pytest.raises(DataError, match="uint8"):
        ArraySource(np.zeros((2, 1, 4, 4)))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="2 integers"):
        ArraySource(np.zeros((2, 1, 4, 4), np.uint8), np.zeros(3, np.int64))
    with pytest.raises(DataError, match="1 names for 2"):
        ArraySource(np.zeros((2, 1, 4, 4), np.uint8), names=["a"])


def test_memory_mapped_rows_come_in_the_order_asked_for(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (50, 3, 4, 4), np.uint8)
    (tmp_path / "a").write_bytes(pixels.tobytes())
    mapped = ArraySource(np.memmap(tmp_path / "a", np.uint8, "r", shape=pixels.shape))
    indices = RNG.integers(0, 50, 30)
    read = mapped.read(indices)
    np.testing.assert_array_equal(read, pixels[indices])
    assert type(read) is np.ndarray and read.flags.writeable


def test_shapes_source() -> None:
    spec = shapes.ShapesSpec(seed=5, size=16, classes=4)
    drawn = ShapesSource(spec, 30, offset=100)
    images, labels = shapes.generate(np.array([103, 129]), spec)
    np.testing.assert_array_equal(drawn.read(np.array([3, 29])), images)
    assert drawn.labels is not None and drawn.labels[[3, 29]].tolist() == labels.tolist()
    assert drawn.names[3] == "103" and drawn.class_names == shapes.class_names(spec)
    with pytest.raises(IndexError):
        drawn.read(np.array([30]))


def test_opened_shapes() -> None:
    dataset = open_dataset(DataConfig(samples=200, size=16, seed=2))
    assert dataset.test is not None
    assert (len(dataset.train), len(dataset.val), len(dataset.test)) == (200, 20, 2000)
    names = [set(s.names) for s in (dataset.train, dataset.val, dataset.test)]
    assert not names[0] & names[1] and not names[0] & names[2] and not names[1] & names[2]
    first = dataset.train.read(np.arange(4))
    assert (first != dataset.val.read(np.arange(4))).any() and (first != dataset.test.read(np.arange(4))).any()
    assert open_dataset(dataset.config).fingerprint == dataset.fingerprint
    grey = open_dataset(DataConfig(samples=50, size=16, channels=1, classes=3))
    assert grey.train.channels == 1 and len(grey.train.class_names or ()) == 3
    assert len(open_dataset(DataConfig()).train) == 10_000
    with pytest.raises(DataError, match="channels"):
        open_dataset(DataConfig(channels=5))


@pytest.mark.parametrize(
    ("count", "fields", "expected"),
    [
        (1000, {}, 100),
        (60_000, {}, 5000),
        (3, {}, 1),
        (1000, {"val_fraction": 0.25}, 250),
        (60_000, {"val_samples": 6000}, 6000),
    ],
)
def test_validation_count(count: int, fields: dict, expected: int) -> None:
    assert validation_count(count, DataConfig(**fields)) == expected
    split = draw_split(count, DataConfig(**fields))
    assert len(split.val) == expected
    assert sorted([*split.train, *split.val]) == list(range(count))


def test_split_is_drawn_by_seed_and_validation_ignores_samples() -> None:
    base = draw_split(500, DataConfig(seed=1))
    few = draw_split(500, DataConfig(seed=1, samples=100))
    assert few.val.tolist() == base.val.tolist() and len(few.train) == 100
    assert set(few.train) < set(base.train) and not set(base.train) & set(base.val)
    assert draw_split(500, DataConfig(seed=2)).val.tolist() != base.val.tolist()
    assert draw_split(500, DataConfig(seed=1)).train.tolist() == base.train.tolist()
    note = draw_split(500, DataConfig(samples=490)).note
    assert note is not None and "450 of the 490" in note


def test_refused_splits() -> None:
    with pytest.raises(DataError, match=r"samples = 501.*only 500"):
        draw_split(500, DataConfig(samples=501))
    with pytest.raises(DataError, match="1 image; at least 2"):
        draw_split(1, DataConfig())
    with pytest.raises(DataError, match="val_samples = 500"):
        draw_split(500, DataConfig(val_samples=500))
    with pytest.raises(DataError, match=r"test_samples = 21.*only 20"):
        three_way(source(), None, source(), DataConfig(test_samples=21))


def test_given_validation_is_kept_apart() -> None:
    train, val, test = source(20), source(10), source(8)
    got = three_way(train, val, test, DataConfig(samples=5, test_samples=3))
    assert (len(got[0]), got[1], len(got[2] or [])) == (5, val, 3)
    assert three_way(train, val, test, DataConfig())[:3] == (train, val, test)
    assert len(three_way(train, val, test, DataConfig(val_samples=4))[1]) == 4


def test_channel_stats() -> None:
    whole = source(500, 3)
    mean, std = channel_stats(whole, 500)
    scaled = whole.images / 255
    np.testing.assert_allclose(mean, scaled.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, scaled.std((0, 2, 3)), rtol=1e-12)
    assert channel_stats(whole, 100, 1) == channel_stats(whole, 100, 1) != channel_stats(whole, 100, 2)
    mean, std = channel_stats(ArraySource(np.full((3, 1, 4, 4), 51, np.uint8)))
    assert mean == (0.2,) and std == (1 / 255,)
    with pytest.raises(DataError, match="at least one"):
        channel_stats(Subset(whole, np.array([], np.int64)))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"size": 4}, "size must be from 8 to 2048; got 4"),
        ({"size": 32.5}, "size must be a whole number"),
        ({"seed": -1}, "seed must be from 0"),
        ({"workers": True}, "workers must be a whole number"),
        ({"val_fraction": 1.0}, "val_fraction must lie between 0 and 1"),
        ({"val_fraction": float("nan")}, "val_fraction"),
        ({"kind": "foldr"}, "kind must be one of.*'folder'"),
        ({"source": " "}, "source must be"),
        ({"strict": 1}, "strict must be true or false"),
        ({"cache_dir": None}, "cache_dir must be a path"),
    ],
)
def test_configuration_names_the_field(fields: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(**fields)


def test_configuration_is_plain() -> None:
    assert {type(value) for value in dataclasses.asdict(DataConfig()).values()} == {str, int, float, bool}


def test_mistyped_source() -> None:
    with pytest.raises(DataError, match="did you mean 'fashion-mnist'"):
        open_dataset(DataConfig(source="fashon-mnist"))


def test_configuration_imports_neither_numpy_nor_torch() -> None:
    code = "import sys, siamscope.data.config; sys.exit(bool({'numpy', 'torch', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    code = "import sys, siamscope.data as d; d.open_dataset, d.Source, d.IidOrder; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.budget(5) == 5_000_000
    assert memory.budget(0) >= 0
    monkeypatch.setattr(memory, "_of_system", lambda: 1000)
    monkeypatch.setattr(memory, "_of_container", lambda: 600)
    assert memory.budget(0) == 300
    monkeypatch.setattr(memory, "_of_container", lambda: None)
    assert memory.budget(0) == 500


def test_plain_progress_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with console_progress() as progress:
        for done in range(101):
            progress("decoding", done, 100)
        waiting(progress)()
    lines = capsys.readouterr().err.splitlines()
    last = "waiting for another process that decodes the same images"
    assert lines == ["decoding: 0 of 100", "decoding: 100 of 100", last]
