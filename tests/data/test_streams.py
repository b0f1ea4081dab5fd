"""Images that never end: drawn ones, and a folder that grows; and folders of domains."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.growing import GrowingFolder, GrowingOrder, GrowingSource, read_start, write_start
from siamscope.data.open import SHAPES_VAL_AT, Dataset, open_dataset
from siamscope.data.orders import ChunkOrder
from siamscope.data.replay import Replay
from siamscope.data.shapes import ShapesSpec
from siamscope.data.source import ArraySource
from siamscope.data.stream import EndlessOrder, EndlessShapes

# --- drawn images ---


def test_every_drawn_image_is_seen_once() -> None:
    order = EndlessOrder(SHAPES_VAL_AT, 8, 30, 5, 3)
    assert np.concatenate([order.batch(step) for step in range(30)]).tolist() == list(range(240))
    assert order.steps_per_epoch == 3


@pytest.mark.parametrize("buffer", [0, 2, 20])
def test_replay_of_a_stream(buffer: int) -> None:
    """New images stay in succession; the others are of earlier chunks, and no image comes twice in a batch."""
    order = EndlessOrder(SHAPES_VAL_AT, 8, 30, 5, 3, Replay(8, 0.5, buffer, 0))
    share = 2 if buffer == 2 else 4
    new = []
    for step in range(30):
        batch = order.batch(step).tolist()
        chunk_start = order.seen(6 * (step // 6))
        replayed = [index for index in batch if index < chunk_start]
        assert len(set(batch)) == 8
        assert len(replayed) == (share if step >= 6 else 0)
        new += sorted(index for index in batch if index >= chunk_start)
    assert new == list(range(6 * 8 + 24 * (8 - share)))
    if buffer:
        last = {index for step in range(24, 30) for index in order.batch(step) if index < order.seen(24)}
        assert len(last) <= buffer


def test_a_stream_is_a_function_of_the_step() -> None:
    def make() -> EndlessOrder:
        return EndlessOrder(SHAPES_VAL_AT, 8, 30, 5, 3, Replay(8, 0.25, 7, 1))

    order, expected = make(), [make().batch(step).tolist() for step in range(30)]
    assert [order.batch(step).tolist() for step in reversed(range(30))] == expected[::-1]
    with ThreadPoolExecutor(4) as threads:
        assert [batch.tolist() for batch in threads.map(make().batch, range(30))] == expected


def test_the_stream_of_shapes_is_the_data_set_without_an_end() -> None:
    dataset = open_dataset(DataConfig(samples=20, size=16))
    source = EndlessShapes(ShapesSpec(size=16), SHAPES_VAL_AT)
    indices = np.arange(20)
    assert np.array_equal(source.read(indices), dataset.train.read(indices))
    late = np.array([SHAPES_VAL_AT - 1])
    assert source.read(late).shape == (1, 3, 16, 16)
    # the validation images begin where the stream ends, so no step can reach one
    assert dataset.val.offset == SHAPES_VAL_AT == len(source)  # type: ignore[attr-defined]
    with pytest.raises(DataError, match=r"sees 100 new images; the source ends after 99"):
        EndlessOrder(99, 10, 10, 2, 1)
    assert EndlessOrder(100, 10, 10, 2, 1).batch(9).tolist() == list(range(90, 100))


# --- a folder that grows ---


def picture(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


def put(root: Path, values: range) -> None:
    for value in values:
        picture(root / f"{value:03d}.png", value)


class Run:
    """A run on a folder: 5 chunks of 4 steps, batches of 4; images are told apart by their grey value."""

    def __init__(self, root: Path, replay: Replay | None = None) -> None:
        self.config = DataConfig(source=str(root), size=8, channels=1, val_samples=2, cache_dir=str(root.parent / "c"))
        self.ledger = root.parent / "run"
        known = read_start(self.ledger)
        self.dataset: Dataset = open_dataset(self.config, known=known)
        if known is None:
            write_start(self.ledger, self.dataset.files, Path.write_text)
        self.source = GrowingSource(self.dataset.train)
        self.order = GrowingOrder(self.source, 4, 0, 20, 5, replay)
        self.folder = GrowingFolder(
            self.config, self.ledger, self.dataset.files, self.source, self.order, lambda p, text: p.write_text(text)
        )

    def chunk(self, number: int) -> list[list[int]]:
        """Grey values of the batches of a chunk, after a look at the folder."""
        self.folder.look(number)
        self.folder.follow(number)
        steps = range(self.order.pace.first(number), self.order.pace.first(number + 1))
        return [self.source.read(self.order.batch(step))[:, 0, 0, 0].tolist() for step in steps]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    put(tmp_path / "photos", range(10))
    (tmp_path / "run").mkdir()
    return tmp_path / "photos"


def shown(batches: list[list[int]]) -> set[int]:
    return {value for batch in batches for value in batch}


def test_new_images_join_at_the_next_chunk(root: Path) -> None:
    run = Run(root)
    first = shown(run.chunk(0))
    assert len(first) == 8  # two of the ten validate
    assert first < set(range(10))
    put(root, range(100, 106))
    assert shown(run.chunk(1)) == set(range(100, 106))
    assert shown(run.chunk(2)) == set(range(100, 106))  # nothing new: the newest go on
    put(root / "sub", range(200, 204))
    assert shown(run.chunk(3)) == set(range(200, 204))
    put(root, range(210, 213))  # too few for a batch
    assert shown(run.chunk(4)) == set(range(200, 204))


def test_replay_in_a_folder_that_grows(root: Path) -> None:
    run = Run(root, Replay(4, 0.5, 0, 0))
    early = shown(run.chunk(0))
    put(root, range(100, 102))  # enough: two rows of a batch are replayed
    for batch in run.chunk(1) + run.chunk(2):
        assert sorted(value >= 100 for value in batch) == [False, False, True, True]
        assert len(set(batch)) == 4
    put(root, range(110, 115))
    batches = run.chunk(3)
    assert all(sum(value >= 110 for value in batch) == 2 for batch in batches)
    assert shown(batches) <= early | set(range(100, 102)) | set(range(110, 115))
    assert {100, 101} & shown(batches)


def test_a_resumed_run_replays_the_ledger(root: Path) -> None:
    """The images of the start and of each chunk stay those that were found then, whatever came later."""
    replay = Replay(4, 0.25, 5, 0)
    whole, expected = Run(root, replay), []
    for number in range(4):
        put(root, range(20 * number + 20, 20 * number + 26))
        expected.append(whole.chunk(number))
    put(root / "later", range(200, 230))
    resumed = Run(root, replay)
    assert resumed.dataset.fingerprint == whole.dataset.fingerprint
    assert resumed.chunk(3) == expected[3]  # in the midst of the run, without the chunks before
    assert [Run(root, replay).chunk(number) for number in (2, 0, 1)] == [expected[number] for number in (2, 0, 1)]
    assert shown(resumed.chunk(4)) & set(range(200, 230))
    (root.parent / "run" / "start.json").unlink()
    assert Run(root, replay).dataset.fingerprint != whole.dataset.fingerprint  # what the ledger is for


def test_going_back_within_a_process(root: Path) -> None:
    run = Run(root, Replay(4, 0.25, 0, 0))
    put(root, range(100, 110))
    chunks = [run.chunk(number) for number in range(3)]
    put(root, range(110, 120))
    assert [run.chunk(number) for number in range(3)] == chunks


def test_the_pixels_outlive_files_and_cache(root: Path) -> None:
    run = Run(root)
    put(root, range(100, 106))
    expected = [run.chunk(number) for number in range(2)]
    for value in range(100, 106):
        (root / f"{value}.png").unlink()
    assert [Run(root).chunk(number) for number in range(2)] == expected
    put(root, range(100, 106))
    for folder in run.ledger.glob("chunk00001-*"):
        shutil.rmtree(folder)
    assert [Run(root).chunk(number) for number in range(2)] == expected  # decoded again: the same pixels
    for folder in run.ledger.glob("chunk00001-*"):
        shutil.rmtree(folder)
    picture(root / "103.png", 7)
    with pytest.raises(DataError, match=r"joined at chunk 1 have changed"):
        Run(root).chunk(1)


def test_half_written_files_join_when_they_are_whole(root: Path) -> None:
    """At the start of the run as well as later; and a file that stays bad is decoded once."""
    (root / "half.png").write_bytes(b"\x89PNG")
    (root / "bad.png").write_bytes(b"never an image")
    known = open_dataset(DataConfig(source=str(root), size=8, cache_dir=str(root.parent / "c"))).files
    assert "half.png" not in known["train"]
    write_start(root.parent / "run", known, Path.write_text)
    run = Run(root)
    run.chunk(0)
    picture(root / "half.png", 250)
    put(root, range(100, 105))
    (root / "late.png").write_bytes(b"\x89PNG")
    assert shown(run.chunk(1)) == {250, *range(100, 105)}
    assert len(list(run.ledger.glob("chunk00001-*"))) == 1  # what was decoded with the bad ones is gone
    put(root, range(120, 125))
    assert shown(run.chunk(2)) == set(range(120, 125))
    refused = [json.loads((run.ledger / f"chunk0000{k}.json").read_text())["refused"] for k in (1, 2)]
    assert [[name for name, _, _ in entry] for entry in refused] == [["bad.png", "late.png"], []]
    picture(root / "late.png", 251)
    put(root, range(130, 135))
    assert shown(run.chunk(3)) == {251, *range(130, 135)}
    assert [shown(Run(root).chunk(number)) for number in (1, 3)] == [
        {250, *range(100, 105)}, {251, *range(130, 135)},
    ]  # fmt: skip


def test_what_is_wrong_with_a_ledger_is_said(root: Path) -> None:
    run = Run(root)
    for number in range(3):
        run.chunk(number)
    (run.ledger / "chunk00001.json").write_text("{")
    with pytest.raises(DataError, match=r"chunk00001.json.*what joined at chunk 1, cannot be read"):
        Run(root).chunk(2)
    with pytest.raises(DataError, match="chunk 4, which has not been looked for"):
        run.order.batch(19)
    (root / "003.png").unlink()
    with pytest.raises(DataError, match=r"1 images that were used before are gone .*'003.png': put them back"):
        Run(root)
    (run.ledger / "start.json").write_text("[]")
    with pytest.raises(DataError, match=r"start.json.*cannot be read"):
        Run(root)


def test_a_vanished_folder(root: Path) -> None:
    run = Run(root)
    run.chunk(0)
    root.rename(root.parent / "moved")
    with pytest.raises(DataError, match="there is no folder"):
        run.chunk(1)


def test_several_sources_as_one() -> None:
    pixels = np.arange(9, dtype=np.uint8)[:, None, None, None] * np.ones((1, 1, 8, 8), np.uint8)
    source = GrowingSource(ArraySource(pixels[:4]))
    for part in (pixels[:0], pixels[4:7], pixels[7:]):
        source.join(ArraySource(part))
    assert source.edges == [0, 4, 4, 7, 9]
    assert len(source) == 9
    wanted = np.array([8, 0, 4, 3, 7, 6, 4])
    assert np.array_equal(source.read(wanted), pixels[wanted])


# --- domains ---


def test_folders_of_domains(tmp_path: Path) -> None:
    for split, count in (("train", 4), ("test", 1)):
        for d, domain in enumerate(("photo", "sketch", "paint")):
            for c, name in enumerate(("cat", "dog")):
                for i in range(count):
                    picture(tmp_path / "pacs" / split / domain / name / f"{i}.png", 100 * c + 10 * d)
    config = DataConfig(
        source=str(tmp_path / "pacs"), size=8, domains=True, val_samples=4, cache_dir=str(tmp_path / "c")
    )
    dataset = open_dataset(config)
    train, test = dataset.train, dataset.test
    assert train.class_names == ("cat", "dog")
    assert train.domain_names == ("paint", "photo", "sketch")
    assert train.labels is not None and train.domains is not None and test is not None and test.domains is not None
    values = train.read(np.arange(20))[:, 0, 0, 0]
    assert np.array_equal(values // 100, train.labels)
    assert np.array_equal(values % 100 // 10, np.array([2, 0, 1])[train.domains])
    assert sorted(test.domains.tolist()) == [0, 0, 1, 1, 2, 2]
    plain = open_dataset(DataConfig(source=str(tmp_path / "pacs"), size=8, cache_dir=str(tmp_path / "c")))
    assert plain.train.class_names == ("paint", "photo", "sketch")
    assert plain.train.domains is None
    order = ChunkOrder("current", 20, 2, 0, 30, 3, groups=train.domains)
    along = train.domains[order.permutation]
    assert (np.diff(along) != 0).sum() == 2  # one domain after another
    assert len(set(train.labels[order.permutation][:7])) == 2  # the domain shifts, not the class
    assert (np.diff(train.domains[ChunkOrder("current", 20, 2, 0, 30, 3).permutation]) != 0).sum() > 5


def test_refused_domains(tmp_path: Path) -> None:
    for i in range(6):
        picture(tmp_path / "d" / "photo" / "cat" / f"{i}.png", i)
    picture(tmp_path / "d" / "stray.png", 9)
    with pytest.raises(DataError, match=r"DOMAIN/CLASS/image.*'stray.png'"):
        open_dataset(DataConfig(source=str(tmp_path / "d"), size=8, domains=True, cache_dir=str(tmp_path / "c")))
    with pytest.raises(DataError, match=r"data.domains goes with a folder"):
        open_dataset(DataConfig(domains=True))
    with pytest.raises(DataError, match="domains must be true or false"):
        DataConfig(domains=1)  # type: ignore[arg-type]
