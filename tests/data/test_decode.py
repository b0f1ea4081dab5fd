"""Decoding of single files: every format and mode, with pixel values that are known beforehand."""

import io
import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from siamscope.data.decode import DecodeOptions, Unusable, decode, own_limits

SIZE = 16
RGB, GREY = DecodeOptions(SIZE, 3), DecodeOptions(SIZE, 1)
RED, GREEN, BLUE, YELLOW = (200, 30, 40), (20, 180, 60), (10, 40, 220), (230, 220, 20)


def quarters(side: int = SIZE) -> np.ndarray:
    """Four corners of different colour, so that each of the eight orientations looks different."""
    pixels = np.empty((side, side, 3), np.uint8)
    half = side // 2
    pixels[:half, :half], pixels[:half, half:] = RED, GREEN
    pixels[half:, :half], pixels[half:, half:] = BLUE, YELLOW
    return pixels


def corners(pixels: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(int(v) for v in pixels[y, x]) for y in (3, -4) for x in (3, -4)]


def read(path: Path, options: DecodeOptions = RGB) -> np.ndarray:
    with own_limits():
        return decode(str(path), options)


def reason(path: Path, options: DecodeOptions = RGB) -> str:
    with pytest.raises(Unusable) as caught:
        read(path, options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("ending", "options", "tolerance"),
    [
        ("png", {}, 0),
        ("bmp", {}, 0),
        ("tiff", {}, 0),
        ("tif", {"compression": "tiff_lzw"}, 0),
        ("webp", {"lossless": True}, 0),
        ("gif", {}, 0),
        ("jpg", {"quality": 95, "subsampling": 0}, 4),
        ("jpeg", {"quality": 95, "subsampling": 0, "progressive": True}, 4),
    ],
)
def test_formats_keep_the_pixels(tmp_path: Path, ending: str, options: dict, tolerance: int) -> None:
    path = tmp_path / f"a.{ending}"
    Image.fromarray(quarters()).save(path, **options)
    difference = read(path).astype(int) - quarters()
    assert abs(difference).max() <= tolerance


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """How the stored pixels of an upright picture look under an EXIF orientation (the table of the standard)."""
    # 0th row and 0th column of the stored picture: top/left, top/right, bottom/right, bottom/left, left/top, ...
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: pixels.transpose(1, 0, 2)[::-1],
        7: pixels.transpose(1, 0, 2)[::-1, ::-1],
        8: pixels.transpose(1, 0, 2)[:, ::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["png", "jpg", "tiff", "webp"])
def test_exif_orientation_is_undone(tmp_path: Path, orientation: int, ending: str) -> None:
    stored = Image.fromarray(np.ascontiguousarray(turned(quarters(), orientation)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{ending}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 95, "subsampling": 0}}.get(ending, {})
    stored.save(path, exif=exif, **options)
    difference = read(path).astype(int)[[3, 3, -4, -4], [3, -4, 3, -4]] - [RED, GREEN, BLUE, YELLOW]
    assert abs(difference).max() <= (6 if ending == "jpg" else 0)


def test_orientation_commutes_with_cropping(tmp_path: Path) -> None:
    """A wide picture stored upright or on its side gives the same centre square."""
    wide = np.random.default_rng(0).integers(0, 256, (40, 71, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "upright.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.ascontiguousarray(turned(wide, 6))).save(tmp_path / "side.png", exif=exif)
    difference = read(tmp_path / "upright.png").astype(int) - read(tmp_path / "side.png")
    assert abs(difference).max() <= 1


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, SIZE * SIZE).round().reshape(SIZE, SIZE)
    expected = np.rint(levels / 257).astype(np.uint8)
    assert expected.min() == 0 and expected.max() == 255
    for name in ("a.png", "a.tiff"):
        Image.fromarray(levels.astype(np.uint16)).save(tmp_path / name)
        np.testing.assert_array_equal(read(tmp_path / name, GREY), expected)
        np.testing.assert_array_equal(read(tmp_path / name)[..., 2], expected)


def test_32_bit_tiffs(tmp_path: Path) -> None:
    levels = np.linspace(0, 65535, SIZE * SIZE).round().reshape(SIZE, SIZE)
    expected = np.rint(levels / 257).astype(np.uint8)
    for values in (levels.astype(np.int32), levels.astype(np.float32), (levels / 65535).astype(np.float32)):
        Image.fromarray(values).save(tmp_path / "a.tiff")
        np.testing.assert_array_equal(read(tmp_path / "a.tiff", GREY), expected)
    Image.fromarray(levels.astype(np.int32) * 2).save(tmp_path / "a.tiff")
    assert "131070" in reason(tmp_path / "a.tiff")
    Image.fromarray(np.full((SIZE, SIZE), np.nan, np.float32)).save(tmp_path / "a.tiff")
    assert "NaN" in reason(tmp_path / "a.tiff")


def test_cmyk(tmp_path: Path) -> None:
    ink = np.zeros((SIZE, SIZE, 4), np.uint8)
    ink[:, : SIZE // 2] = (255, 0, 0, 0)  # full cyan: no red
    ink[:, SIZE // 2 :] = (0, 0, 0, 255)  # full black
    for name in ("a.tiff", "a.jpg"):
        Image.fromarray(ink, "CMYK").save(tmp_path / name)
        pixels = read(tmp_path / name).astype(int)
        assert abs(pixels[8, 2] - [0, 255, 255]).max() <= 6
        assert abs(pixels[8, -3] - [0, 0, 0]).max() <= 6


def test_transparency_is_laid_on_white(tmp_path: Path) -> None:
    rgba = np.zeros((SIZE, SIZE, 4), np.uint8)
    rgba[: SIZE // 2] = (100, 0, 0, 0)  # invisible, with a hidden colour
    rgba[SIZE // 2 :] = (100, 50, 0, 128)
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png").astype(int)
    assert (pixels[2] == 255).all()
    alpha = 128 / 255
    expected = np.array([100, 50, 0]) * alpha + 255 * (1 - alpha)
    assert abs(pixels[-3] - expected).max() <= 1
    Image.fromarray(rgba[..., [0, 3]], "LA").save(tmp_path / "la.png")
    assert abs(read(tmp_path / "la.png", GREY)[-3].astype(int) - expected[0]).max() <= 1


def test_hidden_colours_do_not_leak_when_scaled(tmp_path: Path) -> None:
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[..., 3] = (np.indices((64, 64)).sum(0) % 2) * 255  # a checkerboard of opaque black ...
    rgba[rgba[..., 3] == 0, :3] = (0, 255, 0)  # ... and of invisible green
    Image.fromarray(rgba).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png").astype(int)
    assert np.ptp(pixels, axis=2).max() <= 1  # grey everywhere


def test_palettes(tmp_path: Path) -> None:
    image = Image.fromarray((np.indices((SIZE, SIZE)).sum(0) % 3).astype(np.uint8), "P")
    image.putpalette([*RED, *GREEN, *BLUE])
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "holes.png", transparency=1)
    image.save(tmp_path / "holes.gif", transparency=1)
    image.save(tmp_path / "half.png", transparency=bytes([255, 0, 128]))
    places = [[0, 0], [0, 1], [0, 2]]
    at = tuple(np.array(places).T)
    assert read(tmp_path / "plain.png")[at].tolist() == [list(RED), list(GREEN), list(BLUE)]
    for name in ("holes.png", "holes.gif"):
        assert read(tmp_path / name)[at].tolist() == [list(RED), [255] * 3, list(BLUE)]
    half = np.array(BLUE) * 128 / 255 + 255 * 127 / 255
    assert abs(read(tmp_path / "half.png")[0, 2] - half).max() <= 1


def test_other_modes(tmp_path: Path) -> None:
    grey = np.arange(SIZE * SIZE, dtype=np.uint8).reshape(SIZE, SIZE)
    Image.fromarray(grey).save(tmp_path / "l.png")
    np.testing.assert_array_equal(read(tmp_path / "l.png"), np.repeat(grey[..., None], 3, 2))
    bits = grey % 3 == 0
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(read(tmp_path / "bits.png", GREY), bits * np.uint8(255))
    Image.fromarray(grey).save(tmp_path / "hole.png", transparency=7)
    assert read(tmp_path / "hole.png", GREY)[0, 7] == 255 and read(tmp_path / "hole.png", GREY)[0, 8] == 8
    luma = np.array(quarters() @ [0.299, 0.587, 0.114])
    Image.fromarray(quarters()).save(tmp_path / "rgb.png")
    assert abs(read(tmp_path / "rgb.png", GREY) - luma).max() <= 1
    lab = Image.fromarray(np.full((SIZE, SIZE, 3), (255, 0, 0), np.uint8), "LAB")
    lab.save(tmp_path / "lab.tiff")
    assert read(tmp_path / "lab.tiff").min() >= 250  # the lightest grey of Lab is white


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in (RED, GREEN)]
    for name, options in (("a.gif", {}), ("a.webp", {"lossless": True}), ("a.tiff", {})):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **options)
        assert read(tmp_path / name)[5, 5].tolist() == list(RED)


def test_scaling_is_antialiased_and_central(tmp_path: Path) -> None:
    wide = np.zeros((64, 128, 3), np.uint8)
    wide[:, 32:96] = (np.indices((64, 64)).sum(0) % 2 * 255)[..., None]  # grey on average; the sides are cut off
    Image.fromarray(wide).save(tmp_path / "a.png")
    pixels = read(tmp_path / "a.png")[:, 1:-1].astype(int)
    assert abs(pixels - 127.5).max() <= 4
    Image.fromarray(quarters(8)).save(tmp_path / "small.png")
    assert corners(read(tmp_path / "small.png")) == [RED, GREEN, BLUE, YELLOW]


def test_draft_mode_agrees_with_full_decoding(tmp_path: Path) -> None:
    axis = np.linspace(0, 1, 640)
    smooth = np.stack([255 * axis[None] + 0 * axis[:, None], 255 * axis[:, None] + 0 * axis[None]], -1)
    smooth = np.concatenate([smooth, 255 - smooth[..., :1]], -1).round().astype(np.uint8)
    Image.fromarray(smooth).save(tmp_path / "a.jpg", quality=95)
    Image.fromarray(smooth).save(tmp_path / "a.png")
    assert abs(read(tmp_path / "a.jpg").astype(int) - read(tmp_path / "a.png")).max() <= 4


@pytest.mark.parametrize(
    ("stored", "size", "scaled"),
    [
        ((640, 640), 32, (80, 80)),  # at an eighth; a tenth would do
        ((640, 260), 32, (160, 65)),  # the shorter side decides
        ((256, 256), 32, (64, 64)),
        ((127, 300), 32, (127, 300)),  # half of it would be less than twice as fine
        ((32, 32), 32, None),  # nothing to scale
        ((20, 24), 32, (20, 24)),
    ],
)
def test_large_jpegs_are_decoded_at_reduced_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stored: tuple[int, int], size: int, scaled: tuple[int, int] | None
) -> None:
    """What comes out of the decoder, before it is scaled: reduced where it stays twice as fine as asked for."""
    Image.new("RGB", stored, RED).save(tmp_path / "a.jpg")
    Image.new("RGB", stored, RED).save(tmp_path / "a.png")
    found: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def spy(image: Image.Image, *args: object, **named: object) -> Image.Image:
        found.append(image.size)
        return resize(image, *args, **named)

    monkeypatch.setattr(Image.Image, "resize", spy)
    assert read(tmp_path / "a.jpg", DecodeOptions(size, 3)).shape == (size, size, 3)
    assert found[:1] == ([scaled] if scaled else [])
    found.clear()
    read(tmp_path / "a.png", DecodeOptions(size, 3))
    assert found[:1] == ([stored] if scaled else []), "only libjpeg can"


def test_damaged_files_are_named_not_raised(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for ending in ("jpg", "png", "webp", "tiff", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, {"jpg": "jpeg"}.get(ending, ending))
        (tmp_path / f"a.{ending}").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
        assert reason(tmp_path / f"a.{ending}")
    (tmp_path / "text.jpg").write_text("not an image")
    assert "not an image" in reason(tmp_path / "text.jpg")
    (tmp_path / "empty.jpg").write_bytes(b"")
    assert "not an image" in reason(tmp_path / "empty.jpg")
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    assert "not an image" in reason(tmp_path / "script.png")


def test_random_damage_never_escapes(tmp_path: Path) -> None:
    """Flipped bytes either decode to something of the right shape or are Unusable; nothing else is raised."""
    rng = np.random.default_rng(1)
    outcomes = set()
    for ending in ("jpeg", "png", "webp", "tiff", "gif", "bmp"):
        buffer = io.BytesIO()
        Image.fromarray(quarters(24)).save(buffer, ending)
        for _ in range(25):
            data = bytearray(buffer.getvalue())
            for place in rng.integers(0, len(data), 6):
                data[place] = rng.integers(256)
            (tmp_path / "a.png").write_bytes(data)
            try:
                assert read(tmp_path / "a.png").shape == (SIZE, SIZE, 3)
                outcomes.add("decoded")
            except Unusable:
                outcomes.add("refused")
    assert outcomes == {"decoded", "refused"}


def test_missing_file_is_a_passing_reason(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="No such file") as caught:
        read(tmp_path / "gone.png")
    assert caught.value.passing
    (tmp_path / "bad.png").write_text("x")
    with pytest.raises(Unusable) as caught:
        read(tmp_path / "bad.png")
    assert not caught.value.passing


def bomb(path: Path, side: int) -> None:
    """A PNG of side × side black pixels in a few kilobytes, written without holding it in memory."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side // 8)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b""))


def test_decompression_bomb_is_refused_by_name_and_unread(tmp_path: Path) -> None:
    bomb(tmp_path / "bomb.png", 20_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = reason(tmp_path / "bomb.png")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert "20000 × 20000" in text and "bomb" in text and "max_pixels" in text
    assert after - before < 50_000  # kB; one byte a pixel would be 400 MB
    bomb(tmp_path / "fine.png", 256)
    assert read(tmp_path / "fine.png", GREY).max() == 0
    assert "256 × 256" in reason(tmp_path / "fine.png", DecodeOptions(SIZE, 1, max_pixels=256 * 256 - 1))


def test_tiny_images(tmp_path: Path) -> None:
    Image.new("RGB", (1, 1), RED).save(tmp_path / "dot.png")
    assert "1 × 1" in reason(tmp_path / "dot.png") and "min_side" in reason(tmp_path / "dot.png")
    assert (read(tmp_path / "dot.png", DecodeOptions(SIZE, 3, min_side=1)) == RED).all()


def test_own_limits_are_given_back() -> None:
    before = Image.MAX_IMAGE_PIXELS
    with own_limits():
        assert Image.MAX_IMAGE_PIXELS is None
    assert before == Image.MAX_IMAGE_PIXELS is not None
