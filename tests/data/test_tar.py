"""Tar files of the webdataset layout: what is found, labels, splits, pixels, and all that may be wrong with them."""

import gzip
import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from images import noise, pool
from PIL import Image

from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError
from siamscope.data.open import Dataset, open_dataset
from siamscope.data.tar import Choice, read_index
from siamscope.data.tar_files import absolute, braces, joined, matched, tar_files


def image_bytes(value: int, kind: str = "png", side: int = 12) -> bytes:
    out = io.BytesIO()
    Image.new("L", (side, side), value).save(out, kind)
    return out.getvalue()


def write_tar(path: Path, members: Iterable[tuple[str, bytes]], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def samples(values: Iterable[int], classes: int = 0) -> list[tuple[str, bytes]]:
    members = []
    for value in values:
        members.append((f"{value:06d}.png", image_bytes(value)))
        if classes:
            members.append((f"{value:06d}.cls", str(value % classes).encode()))
    return members


def opened(source: object, root: Path, **fields: Any) -> Dataset:
    return open_dataset(DataConfig(source=str(source), size=8, cache_dir=str(root / "cache"), **fields))


# ------------------------------------------------------------------------------------------- what is read


def test_images_and_labels_of_several_files(tmp_path: Path) -> None:
    write_tar(tmp_path / "a-1.tar", samples(range(5), 3))
    write_tar(tmp_path / "a-0.tar", samples(range(5, 8), 3))
    dataset = opened(tmp_path / "a-{0..1}.tar", tmp_path)
    assert dataset.config.kind == "tar" and dataset.train.class_names == ("0", "1", "2")
    expected = {f"a-1.tar/{v:06d}.png": (v, v % 3) for v in range(5)}
    expected |= {f"a-0.tar/{v:06d}.png": (v, v % 3) for v in range(5, 8)}
    assert pool(dataset) == expected
    again = open_dataset(dataset.config)
    assert again.fingerprint == dataset.fingerprint and pool(again) == expected


def test_pixels_equal_those_of_the_same_files_in_a_folder(tmp_path: Path) -> None:
    contents = {f"{k:03d}.{'jpg' if k % 2 else 'webp'}": noise(k, kind="jpeg" if k % 2 else "webp") for k in range(24)}
    for name, content in contents.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    write_tar(tmp_path / "one.tar", contents.items())
    folder, tar = (opened(tmp_path / name, tmp_path) for name in ("photos", "one.tar"))
    looked = opened(tmp_path / "one.tar", tmp_path, cache="none")
    for part in ("train", "val"):
        rows = np.arange(len(getattr(folder, part)))
        expected = getattr(folder, part).read(rows)
        np.testing.assert_array_equal(getattr(tar, part).read(rows), expected)
        np.testing.assert_array_equal(getattr(looked, part).read(rows[::-1]), expected[::-1])
        assert getattr(tar, part).fingerprint == getattr(folder, part).fingerprint
    assert folder.train.read(np.arange(9)).std() > 10  # something to compare
    assert [name.partition("/")[2] for name in tar.train.names] == list(folder.train.names)


def test_an_order_of_members_that_mixes_samples(tmp_path: Path) -> None:
    """All labels before all images; webdataset's library would not join them."""
    members = sorted(samples(range(6), 2), key=lambda member: member[0][-3:])
    write_tar(tmp_path / "x.tar", members)
    assert pool(opened(tmp_path / "x.tar", tmp_path))["x.tar/000003.png"] == (3, 1)


@pytest.mark.parametrize("label", ["", "label", "species"])
def test_labels_in_json(tmp_path: Path, label: str) -> None:
    kinds = ("owl", "fox")
    members = []
    for value in range(6):
        about = {label or "label": kinds[value % 2], "other": value}
        members += [(f"d/{value}.png", image_bytes(value)), (f"d/{value}.json", json.dumps(about).encode())]
    write_tar(tmp_path / "x.tar", members)
    dataset = opened(tmp_path / "x.tar", tmp_path, label=label)
    assert dataset.train.class_names == ("fox", "owl")
    assert pool(dataset)["x.tar/d/3.png"] == (3, 0) and pool(dataset)["x.tar/d/4.png"] == (4, 1)


def test_which_of_several_images(tmp_path: Path) -> None:
    members = [(f"{k}.{side}.png", image_bytes(k + add)) for k in range(4) for side, add in (("left", 0), ("right", 9))]
    write_tar(tmp_path / "x.tar", members)
    with pytest.raises(DataError, match=r"several images, left.png, right.png: choose one with data.image"):
        opened(tmp_path / "x.tar", tmp_path)
    assert pool(opened(tmp_path / "x.tar", tmp_path, image="right.png"))["x.tar/2.right.png"] == (11, None)
    write_tar(tmp_path / "y.tar", [*members, *((f"{k}.png", image_bytes(99)) for k in range(4))])
    assert pool(opened(tmp_path / "y.tar", tmp_path))["y.tar/2.png"] == (99, None)  # the plain name comes first


def test_the_members_that_are_passed_over(tmp_path: Path) -> None:
    """Hidden names, webdataset's own ones, files without an ending, folders; nothing is unpickled."""
    bomb = b"cos\nsystem\n(S'touch " + str(tmp_path / "owned").encode() + b"'\ntR."
    other = [("._0.png", b"x"), ("__key__.txt", b"x"), ("README", b"x"), ("0.pyd", bomb), ("1.pickle", bomb)]
    write_tar(tmp_path / "x.tar", [*other, *samples(range(4), 2), ("2.pth", bomb)])
    dataset = opened(tmp_path / "x.tar", tmp_path)
    assert len(pool(dataset)) == 4 and not (tmp_path / "owned").exists()
    assert {item.reason for item in dataset.rejected} == {
        "a sample without image; it holds pyd", "a sample without image; it holds pickle",
        "a sample without image; it holds pth",
    }  # fmt: skip


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar(tmp_path: Path, form: int) -> None:
    long = "ordner/" * 12 + "x" * 60
    with tarfile.open(tmp_path / "x.tar", "w", format=form) as archive:
        folder = tarfile.TarInfo("ordner")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for k in range(4):
            info = tarfile.TarInfo(f"{long}{k}.png")
            info.size = len(image_bytes(k))
            archive.addfile(info, io.BytesIO(image_bytes(k)))
    assert pool(opened(tmp_path / "x.tar", tmp_path)) == {f"x.tar/{long}{k}.png": (k, None) for k in range(4)}


# ------------------------------------------------------------------------------------------- which files


def test_splits_by_name(tmp_path: Path) -> None:
    for name, values in {
        "train-0": range(6),
        "train-1": range(6, 9),
        "val-0": (50, 51),
        "TEST-0": (70, 71, 72),
    }.items():
        write_tar(tmp_path / f"{name}.tar", samples(values, 2))
    write_tar(tmp_path / "notes.tar", samples((200,), 2))
    dataset = opened(tmp_path, tmp_path)
    assert [len(part) for part in (dataset.train, dataset.val, dataset.test or ())] == [9, 2, 3]
    assert dataset.hint is not None and "2 files as train, 1 file as val, 1 file as test" in dataset.hint
    assert 200 not in [value for value, _ in pool(dataset).values()]


def test_splits_by_folder(tmp_path: Path) -> None:
    write_tar(tmp_path / "x/train/000.tar", samples(range(6)))
    write_tar(tmp_path / "x/val/000.tar", samples((50, 51)))
    found = tar_files(str(tmp_path / "x"))
    assert {name: [file.parent.name for file in files] for name, files in found.items()} == {
        "train": ["train"], "test": ["val"],
    }  # fmt: skip


def test_a_folder_of_images_beside_an_archive_stays_one(tmp_path: Path) -> None:
    for k in range(4):
        path = tmp_path / "x" / "cats" / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image_bytes(k))
    write_tar(tmp_path / "x" / "cats.tar", samples(range(100, 110)))
    assert opened(tmp_path / "x", tmp_path).config.kind == "folder"
    assert opened(tmp_path / "x", tmp_path, kind="tar").config.kind == "tar"


def test_patterns() -> None:
    assert braces("t-{008..011}.tar") == ["t-008.tar", "t-009.tar", "t-010.tar", "t-011.tar"]
    assert braces("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert braces("plain.tar") == ["plain.tar"]
    halves = [("t-{000.tar", "other half"), ("t-0}.tar", "other half")]
    for wrong, match in (*halves, ("{5..1}.tar", "upwards"), ("{0..99999999}.tar", "at most")):
        with pytest.raises(DataError, match=match):
            braces(wrong)


def test_what_a_shell_makes_of_a_pattern() -> None:
    assert joined(["a-0.tar", "a-1.tar", "--out", "x"]) == ["{a-0.tar,a-1.tar}", "--out", "x"]
    assert joined(["--seed", "1", "a-0.tar"]) == ["--seed", "1", "a-0.tar"]
    assert joined(["shapes", "--out", "x.tar"]) == ["shapes", "--out", "x.tar"]
    assert absolute("{a.tar,/b/c.tar}") == "{" + str(Path("a.tar").absolute()) + ",/b/c.tar}"


def test_patterns_that_match_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "t-0.tar", samples(range(4)))
    with pytest.raises(DataError, match="no file matches"):
        opened(tmp_path / "u-*.tar", tmp_path)
    with pytest.raises(DataError, match=r"there is no file '.*t-1.tar' \(and 1 more\)"):
        opened(tmp_path / "t-{0..2}.tar", tmp_path)
    with pytest.raises(DataError, match=r"there is no folder or file"):
        opened(tmp_path / "t-9.tar", tmp_path)
    assert matched(str(tmp_path / "{t,t}-*.tar")) == [tmp_path / "t-0.tar"]


# ------------------------------------------------------------------------------------------- what may be wrong


def test_a_tar_that_is_cut_short(tmp_path: Path) -> None:
    whole = write_tar(tmp_path / "whole.tar", samples(range(8))).read_bytes()
    member = 1024  # a header and one block
    for at, read, reason in (
        (5 * member + 520, 5, "cut short within '000005.png', after 5 whole members"),
        (5 * member + 100, 5, "ends without a tar's end mark after 5 members"),
        (5 * member, 5, "ends without a tar's end mark after 5 members"),
    ):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:at])
        dataset = opened(cut, tmp_path)
        assert len(pool(dataset)) == read
        assert reason in dataset.rejected[0].reason and reason in str(dataset.hint)
        with pytest.raises(DataError, match="leave out --strict"):
            opened(cut, tmp_path, strict=True)
    assert not opened(tmp_path / "whole.tar", tmp_path, strict=True).rejected


def test_damaged_headers_and_files_that_are_no_tar(tmp_path: Path) -> None:
    whole = bytearray(write_tar(tmp_path / "whole.tar", samples(range(8))).read_bytes())
    whole[3 * 1024 + 5] ^= 0xFF
    (tmp_path / "bad.tar").write_bytes(whole)
    dataset = opened(tmp_path / "bad.tar", tmp_path)
    assert len(pool(dataset)) == 3 and "damaged after 3 members" in dataset.rejected[0].reason
    (tmp_path / "page.tar").write_text("<html>not found</html>" * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    both = opened(f"{{{tmp_path}/page.tar,{tmp_path}/empty.tar,{tmp_path}/whole.tar}}", tmp_path)
    assert [item.path for item in both.rejected] == ["page.tar", "empty.tar"]
    for name in ("page.tar", "empty.tar"):
        with pytest.raises(DataError, match=r"hold no image; .* is no tar file"):
            opened(tmp_path / name, tmp_path)


def test_a_header_with_a_negative_size_ends(tmp_path: Path) -> None:
    """Such a file makes tarfile of older Pythons go round for ever."""
    info = tarfile.TarInfo("0.png")
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\xff" * 8 + (-1024).to_bytes(4, "big", signed=True)
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    (tmp_path / "x.tar").write_bytes(bytes(block) + bytes(1024))
    index = read_index(tmp_path / "x.tar", Choice())
    assert not index.names and index.aside[0][0] == "x.tar"


@pytest.mark.parametrize(("ending", "pack"), [("tar.gz", gzip.compress), ("tar", gzip.compress)])
def test_compressed_tars_are_refused(tmp_path: Path, ending: str, pack: Any) -> None:
    plain = write_tar(tmp_path / "x.tar", samples(range(4))).read_bytes()
    (tmp_path / f"z.{ending}").write_bytes(pack(plain))
    with pytest.raises(DataError, match=r"is compressed \(gzip\).*unpack it to a plain .tar"):
        opened(tmp_path / f"z.{ending}", tmp_path)


def test_members_that_are_no_images(tmp_path: Path) -> None:
    bomb = image_bytes(7, side=200)
    wrong = [("bad.png", b"not an image"), ("none.png", b""), ("big.png", bomb)]
    write_tar(tmp_path / "x.tar", [*samples(range(5)), *wrong])
    dataset = opened(tmp_path / "x.tar", tmp_path, max_pixels=10_000)
    assert len(pool(dataset)) == 5
    reasons = {item.path: item.reason for item in dataset.rejected}
    assert "not an image" in reasons["x.tar/bad.png"] and "not an image" in reasons["x.tar/none.png"]
    assert "200 × 200 pixels are more than max_pixels" in reasons["x.tar/big.png"]
    with pytest.raises(DataError, match="leave out --strict"):
        opened(tmp_path / "x.tar", tmp_path, strict=True)
    write_tar(tmp_path / "y.tar", wrong)
    with pytest.raises(DataError, match="none of the 3 images"):
        opened(tmp_path / "y.tar", tmp_path, max_pixels=10_000)


def test_samples_without_image_and_members_that_come_twice(tmp_path: Path) -> None:
    twice = [("000001.png", image_bytes(200)), ("lone.cls", b"1"), ("lone.txt", b"a text")]
    write_tar(tmp_path / "x.tar", [*samples(range(4), 2), *twice])
    dataset = opened(tmp_path / "x.tar", tmp_path)
    assert pool(dataset)["x.tar/000001.png"] == (1, 1)  # the first
    assert {(item.path, item.reason) for item in dataset.rejected} == {
        ("x.tar/000001.png", "a second member of this name; the first is used"),
        ("x.tar/lone", "a sample without image; it holds cls, txt"),
    }


def test_names_that_lead_elsewhere_are_only_names(tmp_path: Path) -> None:
    names = ["../../evil.png", "/etc/evil.png", "a/../../b.png", "x\x1b[31m\n.png"]
    write_tar(tmp_path / "in" / "x.tar", [(name, image_bytes(k)) for k, name in enumerate(names)])
    before = set(tmp_path.rglob("*"))
    dataset = opened(tmp_path / "in" / "x.tar", tmp_path)
    assert sorted(value for value, _ in pool(dataset).values()) == [0, 1, 2, 3]
    assert all(name.isprintable() for name in pool(dataset))
    made = set(tmp_path.rglob("*")) - before
    assert all(path.is_relative_to(tmp_path / "cache") for path in made)
    assert not [path for path in made if "evil" in path.name]


def test_links_are_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        for name, content in samples(range(4)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    dataset = opened(tmp_path / "x.tar", tmp_path)
    assert len(pool(dataset)) == 4
    assert [(item.path, item.reason[:9]) for item in dataset.rejected] == [("x.tar/passwd.png", "is a link")]


@pytest.mark.parametrize(
    ("about", "names", "note"),
    [
        (["1", 2.0, 1, "2"], ("1", "2"), None),
        ([1, 2.0, True, "10"], ("1", "10", "2", "true"), None),
        ([10, 9, 9, 10], ("9", "10"), None),
        ([1, 2, float("nan"), 1], None, "no labels for train: 1 of its 4 images have none"),
        ([1, 2, 0.5, None], None, "no labels for train: 2 of its 4 images have none"),
        ([[1], {}, None, None], None, None),
        ([3, 3, 3, 3], None, None),
    ],
)
def test_values_of_labels(tmp_path: Path, about: list[object], names: tuple[str, ...] | None, note: str | None) -> None:
    members = [(f"{k}.png", image_bytes(k)) for k in range(4)]
    members += [(f"{k}.json", json.dumps({"label": value}).encode()) for k, value in enumerate(about)]
    write_tar(tmp_path / "x.tar", members)
    dataset = opened(tmp_path / "x.tar", tmp_path)
    assert dataset.train.class_names == names
    assert (note is None) == (dataset.hint is None or "no labels" not in dataset.hint)
    assert note is None or note in str(dataset.hint)


def test_labels_as_asked_for(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", samples(range(4), 2))
    assert opened(tmp_path / "x.tar", tmp_path, label="none").train.labels is None
    with pytest.raises(DataError, match=r"data.label = 'kind' gives no labels"):
        opened(tmp_path / "x.tar", tmp_path, label="kind")


# ------------------------------------------------------------------------------------------- later starts


def test_the_second_start_walks_no_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "x.tar", samples(range(6), 2))
    first = opened(tmp_path / "x.tar", tmp_path)

    def refuse(*_: object) -> None:
        raise AssertionError("walked again")

    monkeypatch.setattr("siamscope.data.tar.read_index", refuse)
    again = opened(tmp_path / "x.tar", tmp_path)
    assert again.fingerprint == first.fingerprint and pool(again) == pool(first)
    write_tar(tmp_path / "x.tar", samples(range(10, 17), 2))
    with pytest.raises(AssertionError, match="walked again"):
        opened(tmp_path / "x.tar", tmp_path)
    monkeypatch.undo()
    assert sorted(value for value, _ in pool(opened(tmp_path / "x.tar", tmp_path)).values()) == list(range(10, 17))


def test_an_index_that_is_damaged_is_made_again(tmp_path: Path) -> None:
    write_tar(tmp_path / "x.tar", samples(range(6), 2))
    first = opened(tmp_path / "x.tar", tmp_path)
    (kept,) = (tmp_path / "cache" / "tar").iterdir()
    for content in ("", "[]", '{"state": []}', kept.read_text()[:-3]):
        kept.write_text(content)
        assert opened(tmp_path / "x.tar", tmp_path).fingerprint == first.fingerprint
