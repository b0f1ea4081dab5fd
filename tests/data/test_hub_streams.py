"""Hugging Face data sets as streams: what a pass holds, in which order, how much is held, and what cannot be used."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_sets import needed, opened, parquet, streamed, table
from images import all_of, noise

from siamscope.data import hub
from siamscope.data.errors import DataError
from siamscope.data.hub_stream import Pieces, StreamedSource
from siamscope.data.loader import Loader
from siamscope.data.windows import StreamOrder

pytestmark = pytest.mark.usefixtures("at_home")


@needed
def test_a_pass_of_a_stream_holds_every_training_image_once(folder: Path, tmp_path: Path) -> None:
    dataset, stream = streamed(folder, tmp_path, window=8)
    known = {noise_pixels.tobytes(): row for row, noise_pixels in enumerate(_all_pixels(folder, tmp_path))}
    order = StreamOrder(stream.edges, 6, 0, 8)
    seen = [known[image.tobytes()] for step in range(order.steps_per_epoch) for image in stream.read(order.batch(step))]
    held = [known[image.tobytes()] for image in all_of(dataset.val)]
    assert len(stream) == 54 and len(held) == 6
    assert sorted([*seen, *held]) == list(range(60)) and seen != sorted(seen)
    assert {known[image.tobytes()] for image in all_of(dataset.train)} <= set(seen)
    assert dataset.train.labels is not None  # what stands for the stream in figures has labels
    for image, label in zip(all_of(dataset.train), dataset.train.labels, strict=True):
        assert known[image.tobytes()] % 3 == label


def _all_pixels(folder: Path, root: Path) -> np.ndarray:
    kept = opened(f"hf:{folder}", root)
    out = np.empty((60, 3, 16, 16), np.uint8)
    for part in (kept.train, kept.val):
        out[[int(name) for name in part.names]] = all_of(part)
    return out


@needed
def test_batches_depend_on_neither_processes_nor_where_one_begins(folder: Path, tmp_path: Path) -> None:
    def batches(start: int, rank: int = 0, world: int = 1, prefetch: int = 4) -> list[np.ndarray]:
        stream = streamed(folder, tmp_path, window=8)[1]
        order = StreamOrder(stream.edges, 6, 5, 8)
        with Loader(stream, order, rank=rank, world=world, device_resident=False, prefetch=prefetch) as loader:
            return [images.numpy() for images, _ in loader.batches(start, 20)]  # into the third pass

    whole = batches(0)
    np.testing.assert_array_equal(batches(0, prefetch=1), whole)
    np.testing.assert_array_equal(batches(11), whole[11:])
    shares = [batches(3, rank, 3) for rank in range(3)]
    np.testing.assert_array_equal(np.concatenate(shares, 1), whole[3:])


@needed
def test_what_a_stream_holds_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "set", {"train": table(range(40))}, group=4)
    _, stream = streamed(tmp_path / "set", tmp_path, window=6, val_samples=4)
    order = StreamOrder(stream.edges, 4, 0, 6)
    read: list[int] = []
    group = stream._table.group

    def counted(at: int, column: str) -> list[Any]:
        read.append(at)
        return group(at, column)

    monkeypatch.setattr(stream._table, "group", counted)
    most = 0
    for step in range(order.steps_per_epoch):
        stream.read(order.batch(step))
        most = max(most, sum(map(len, stream._groups.values())))
    assert most <= 2 * 6 + 4 and len(read) == len(set(read)) == 9  # each group once, and far from all of 40 at a time
    random = StreamOrder(stream.edges, 4, 0, 40)  # without windows the same would be read again and again
    read.clear()
    for step in range(random.steps_per_epoch):
        stream.read(random.batch(step))
    assert len(read) > 15


@needed
def test_images_of_a_stream_that_cannot_be_used(tmp_path: Path) -> None:
    parquet(tmp_path / "set", {"train": table(range(40), {3: b"no image", 4: noise(4, 300), 17: None})})
    _, stream = streamed(tmp_path / "set", tmp_path, max_pixels=10_000, seed=3)
    rows = {row: place for place, row in enumerate(stream._rows.tolist())}
    assert {3, 4, 5, 17, 18} <= set(rows)  # of the seed's choosing: none of them validates
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = stream.read(np.array([rows[3], rows[4], rows[17], rows[5], rows[18]]))
    np.testing.assert_array_equal(found[[0, 1, 2]], found[[3, 3, 4]])
    texts = [str(item.message) for item in told]
    assert len(texts) == 3 and "row 3: not an image" in texts[0] and "max_pixels" in texts[1]
    assert texts[2].startswith("row 17: the row holds no image; the next image takes its place")
    strict = StreamedSource(stream._table, "picture", Pieces(np.array([[0, 8]])), stream._options, 8, True)
    with pytest.raises(DataError, match=r"row 3: not an image.*leave out --strict"):
        strict.read(np.array([3]))
    parquet(tmp_path / "bad", {"train": table(range(20), dict.fromkeys(range(8), b"x"))})
    none = StreamedSource(
        hub.tables(hub.parsed(f"hf:{tmp_path}/bad"), False)[0]["train"], "picture", Pieces(np.array([[0, 8]])),
        stream._options, 8, False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(DataError, match="no image of the row group of row 2"):
            none.read(np.array([2]))


@needed
def test_row_groups_too_large_to_be_held(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, stream = streamed(folder, tmp_path)
    monkeypatch.setattr("siamscope.data.tables._MOST_GROUP", 100)
    with pytest.raises(DataError, match=r"row groups of .* data.cache = disk"):
        stream.read(np.array([0]))
    assert len(opened(f"hf:{folder}", tmp_path).train) == 54  # poured piece by piece


@needed
def test_files_far_away(tmp_path: Path) -> None:
    """The same through an address, as the hub's files have them."""
    from fsspec.core import url_to_fs

    from siamscope.data.tables import ParquetTable

    parquet(tmp_path / "set", {"train": table(range(40))})
    (file,) = (tmp_path / "set" / "data").iterdir()
    system, path = url_to_fs("memory://far/train.parquet")
    system.pipe(path, file.read_bytes())
    near, far = ParquetTable([str(file)]), ParquetTable(["memory://far/train.parquet"])
    assert list(near.images("picture", 5, 33)) == list(far.images("picture", 5, 33)) == [noise(k) for k in range(5, 33)]
    assert far.values("label") == [k % 3 for k in range(40)] and far.edges.tolist() == [0, 8, 16, 24, 32, 40]
    with pytest.raises(DataError, match=r"'memory://far/none.parquet' cannot be read"):
        ParquetTable(["memory://far/none.parquet"])


@needed
def test_a_stream_goes_with_its_order_alone(folder: Path, tmp_path: Path) -> None:
    from siamscope.recipe import Recipe
    from siamscope.sections import OrderConfig, TrainConfig
    from siamscope.workflow.ordering import build_order, steps_per_epoch

    dataset, stream = streamed(folder, tmp_path, window=8)
    recipe = Recipe(data=dataset.config, train=TrainConfig(batch_size=6), order=OrderConfig(name="stream"))
    order, source = build_order(recipe, dataset, 20)
    assert source is stream and order.steps_per_epoch == steps_per_epoch(recipe, dataset) == 9
    with pytest.raises(DataError, match=r"read front to back, as data.cache is none: take order.name 'stream'"):
        build_order(Recipe(data=dataset.config, train=TrainConfig(batch_size=6)), dataset, 20)
    with pytest.raises(DataError, match=r"data.samples does not go with data.cache = none"):
        streamed(folder, tmp_path, samples=10)


@needed
def test_a_held_out_image_takes_no_place_in_training(tmp_path: Path) -> None:
    """Row 3 of the rows 0 .. 3 cannot be decoded: row 0 stands in for it, not row 4, which is another's."""
    place = parquet(tmp_path / "set", {"train": table(range(8), {3: b"x"})})
    tables = hub.tables(hub.parsed(f"hf:{place}"), False)[0]
    _, stream = streamed(place, tmp_path, window=8)
    own = StreamedSource(tables["train"], "picture", Pieces(np.array([[0, 4]])), stream._options, 8, False)
    both = StreamedSource(tables["train"], "picture", Pieces(np.array([[0, 8]])), stream._options, 8, False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, other = own.read(np.array([3, 0])), both.read(np.array([3, 4]))
    assert (found[0] == found[1]).all()
    assert (other[0] == other[1]).all() and not (other[0] == found[0]).all()


def test_pieces() -> None:
    pieces = Pieces.of(np.array([0, 300, 310, 900]))
    assert pieces.bounds.tolist() == [
        [0, 256],
        [256, 300],
        [300, 310],
        [310, 566],
        [566, 822],
        [822, 900],
    ]
    taken, left = pieces.drawn(100, seed=1)
    assert len(taken) == 100 and len(left) == 800 and sorted([*taken.rows, *left.rows]) == list(range(900))
    assert pieces.drawn(100, seed=2)[0].rows.tolist() != taken.rows.tolist()
    assert pieces.drawn(10_000, seed=1)[0].rows.tolist() == list(range(900))
