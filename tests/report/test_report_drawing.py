"""Scales, charts, text and pictures against closed forms."""

import base64
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from siamscope.report.curves import evenly, spectrum_series
from siamscope.report.images import encode, side_for
from siamscope.report.markup import Html, escape, join, name, number, percent, points, shorten, tag, visible
from siamscope.report.metrics import Spectrum
from siamscope.report.scale import Scale, limits, linear_ticks, log_ticks, thin
from siamscope.report.style import STYLE
from siamscope.report.svg import MARKERS, Axis, Bar, Series, bars, category, line_chart, scatter


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "<b>", tag("i", "x"), None, title='"&') == '<p title="&quot;&amp;">&lt;b&gt;<i>x</i></p>'
    assert join("<", Html("<")) == "&lt;<"
    assert tag("img", alt="a", hidden=True, title=None) == '<img alt="a" hidden>'
    assert isinstance(escape("x"), Html)


def test_visible_shows_what_would_hide() -> None:
    assert visible("a\u202eb\x00c\udcffd\u2066") == "a⟨U+202E⟩b⟨U+0000⟩c⟨U+DCFF⟩d⟨U+2066⟩"
    assert visible("naïve 猫 👩\u200d🔬") == "naïve 猫 👩\u200d🔬"  # ordinary text and emoji stay


def test_names_are_shortened_in_the_middle() -> None:
    assert shorten("abcdefghij", 7) == "abcd…ij" and shorten("abc", 3) == "abc"
    assert name("x" * 100).count("x") == 47 + 100  # short in the text, whole in the tooltip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.83124, "0.831"),
        (12345.6, "12,346"),
        (1.2e-7, "1.2×10⁻⁷"),
        (-0.5, "−0.500"),
        (-3e-9, "−3×10⁻⁹"),
        (math.nan, "–"),
        (None, "–"),
        (-math.inf, "−∞"),
        (5e12, "5×10¹²"),
    ],
)
def test_number(value: float | None, text: str) -> None:
    assert number(value) == text


def test_percent_and_points() -> None:
    assert percent(0.62349) == "62.3\u00a0%" and percent(math.nan) == "–"
    assert points(0.3415) == "+34.1" or points(0.3415) == "+34.2"  # a half: either neighbour is right
    assert points(-0.1618) == "−16.2" and points(math.nan) == "–"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1, 0.03), (0.4, 0.43), (0, 51234), (1e-6, 9e-6), (99.99, 100.01)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = linear_ticks(low, high)
    values = np.array([value for value, _ in ticks])
    assert 2 <= len(ticks) <= 6 and values.min() >= low - 1e-12 and values.max() <= high + 1e-12
    step = values[1] - values[0]
    np.testing.assert_allclose(np.diff(values), step, rtol=1e-6)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - allowed) for allowed in (1, 2, 2.5, 5)) < 1e-6
    assert len({label for _, label in ticks}) == len(ticks)  # precise enough to be told apart


def test_tick_labels() -> None:
    assert [label for _, label in linear_ticks(0, 1)] == ["0.00", "0.25", "0.50", "0.75", "1.00"]
    assert [label for _, label in linear_ticks(0, 2000)] == ["0", "500", "1,000", "1,500", "2,000"]
    assert [label for _, label in linear_ticks(0, 2, least=1.0)] == ["0", "1", "2"]
    assert [label for _, label in log_ticks(1e-3, 1)] == ["10⁰", "10⁻¹", "10⁻²", "10⁻³"]
    assert [label for _, label in log_ticks(0.3, 3)] == ["0.5", "1", "2"]


def test_scale_maps_linearly_or_logarithmically() -> None:
    np.testing.assert_allclose(Scale(0, 10, 100, 200)(np.array([0, 5, 10, 99])), [100, 150, 200, 200])
    np.testing.assert_allclose(Scale(1e-4, 1, 200, 0, log=True)(np.array([1e-4, 1e-2, 1, 0])), [200, 100, 0, 200])
    assert np.isnan(Scale(0, 1, 0, 1)(np.array([math.nan]))[0])


def test_limits() -> None:
    assert limits(np.array([math.nan])) == (0.0, 1.0)
    low, high = limits(np.array([0.05, 0.05]))
    assert low < 0.05 < high
    assert limits(np.array([3.0, 7.0, math.inf]), low=0.0) == (0.0, pytest.approx(7.28))
    low, high = limits(np.array([-1e308, 1e308]))
    assert math.isfinite(high - low)
    assert limits(np.array([-1.0, 0.01, 1.0]), log=True) == (0.01, 1.0)


def test_thin_keeps_means_and_extremes() -> None:
    generator = np.random.default_rng(0)
    x, y = np.arange(1000.0), generator.normal(size=1000)
    thinned = thin(x, y, bins=100)
    np.testing.assert_allclose(thinned.y, y.reshape(100, 10).mean(axis=1))
    np.testing.assert_array_equal(thinned.low, y.reshape(100, 10).min(axis=1))
    np.testing.assert_array_equal(thinned.high, y.reshape(100, 10).max(axis=1))
    np.testing.assert_allclose(thinned.x, x.reshape(100, 10).mean(axis=1))
    y[:10] = math.nan
    y[10] = math.inf
    thinned = thin(x, y, bins=100)
    assert math.isnan(thinned.y[0]) and thinned.y[1] == pytest.approx(y[11:20].mean())
    np.testing.assert_array_equal(thin(x[:5], y[:5]).x, x[:5])


def test_thinning_uneven_lengths_loses_nothing() -> None:
    y = np.ones(1037)
    y[-1] = 5.0
    assert thin(np.arange(1037.0), y, bins=200).high[-1] == 5.0


def path_points(source: str, class_: str) -> list[list[tuple[float, float]]]:
    """The pieces of a drawn line."""
    found = re.search(rf'd="([^"]*)" class="{class_}"', source)
    assert found
    pieces = [piece for piece in found[1].split("M") if piece]
    return [[(float(x), float(y)) for x, y in (pair.split() for pair in piece.split("L"))] for piece in pieces]


def test_line_goes_where_the_numbers_say_and_breaks_at_nan() -> None:
    x, y = np.array([0.0, 1, 2, 3, 4]), np.array([0.0, 10, math.nan, 5, 10])
    source = line_chart([Series("s", x, y)], Axis("step", 0.0, 4.0), Axis("y", 0.0, 10.0))
    assert path_points(source, "line c0") == [[(50, 190), (124.5, 10)], [(273.5, 100), (348, 10)]]
    assert "s from 0 to 10.0" in source
    assert "s, step 3: 5.000" in source


def test_long_series_has_a_band_and_short_has_not() -> None:
    x = np.arange(1000.0)
    assert 'class="band c0"' in line_chart([Series("s", x, np.sin(x))], Axis("x"), Axis("y"))
    assert 'class="band' not in line_chart([Series("s", x, np.sin(x))], Axis("x"), Axis("y"), band=False)
    assert 'class="band' not in line_chart([Series("s", x[:100], np.sin(x[:100]))], Axis("x"), Axis("y"))


def test_charts_survive_anything() -> None:
    for values in ([], [math.nan], [math.inf, -math.inf], [1e308, -1e308], [0.0, 0.0], [5e-324]):
        y = np.array(values, dtype=np.float64)
        for log in (False, True):
            source = line_chart([Series("s", np.arange(float(len(y))), y)], Axis("x"), Axis("y", log=log))
            assert "nan" not in source.replace("nan to", "") and "inf" not in source


def test_scatter_keeps_distances_true() -> None:
    """A 3-4-5 triangle stays one, whichever way it lies."""
    for corners in ([[0, 0], [4, 0], [4, 3]], [[0, 0], [0, 4], [3, 4]], [[0, 0], [400, 0], [400, 300]]):
        source = scatter(np.array(corners, dtype=float), [0, 1, -1], ["a", "b", "c"], "x", "y", "d")
        starts = [re.escape(marker) for marker in MARKERS]
        found = re.findall(rf'd="M([\d.]+) ([\d.]+)(?:{"|".join(starts)})"', source)
        a, b, c = (np.array([float(x), float(y)]) for x, y in found)
        unit = np.linalg.norm(c - a) / 5
        assert unit > 20
        np.testing.assert_allclose([np.linalg.norm(a - b), np.linalg.norm(b - c)], [4 * unit, 3 * unit], atol=0.2)


def test_scatter_of_one_place_does_not_fail() -> None:
    assert "nan" not in scatter(np.ones((5, 2)) * 1e30, [0] * 5, [""] * 5, "x", "y", "d")


def test_forty_categories_differ() -> None:
    assert len({category(index) for index in range(40)}) == 40


def test_bars_are_as_long_as_their_values() -> None:
    source = bars(
        [Bar("a", 0.5, "50 %", "c0"), Bar("b", 0.25, "25 %", low=0.2, high=0.3), Bar("c", math.nan, "–")], "d"
    )
    widths = [float(width) for width in re.findall(r'width="([\d.]+)" height="16" class="(?!track)', source)]
    full = float(re.findall(r'width="([\d.]+)" height="16" class="track"', source)[0])
    np.testing.assert_allclose(widths, [0.5 * full, 0.25 * full, 0.0], atol=0.06)
    assert source.count('class="whisker"') == 1


def spectrum_of(values: list[float]) -> Spectrum:
    return Spectrum(np.array(values), np.arange(1.0, len(values) + 1), len(values))


def test_spectrum_is_normalised_and_floored() -> None:
    series = spectrum_series("s", spectrum_of([8.0, 4.0, 2e-9, 0.0]), "r0")
    np.testing.assert_allclose(series.y, [1.0, 0.5, 1e-6, 1e-6])
    np.testing.assert_allclose(series.x, [25, 50, 75, 100])
    assert (spectrum_series("s", spectrum_of([0.0, 0.0, 0.0]), "r0").y == 1e-6).all()


def test_spectrum_with_values_left_out_keeps_their_places() -> None:
    series = spectrum_series("s", Spectrum(np.array([4.0, 2.0, 1.0]), np.array([1.0, 2.0, 8.0]), 10), "r0")
    np.testing.assert_allclose(series.x, [10, 20, 80])


def test_evenly_keeps_the_ends() -> None:
    assert evenly(3, 7) == [0, 1, 2]
    chosen = evenly(1000, 7)
    assert len(chosen) == 7 and chosen[0] == 0 and chosen[-1] == 999


def decode(address: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(address.removeprefix("data:image/png;base64,")))))


def test_pictures_survive_exactly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 8, 6), dtype=np.uint8)
    width, height, address = encode(image, 96)
    assert (width, height) == (6, 8)
    np.testing.assert_array_equal(decode(address), image[:3].transpose(1, 2, 0))
    np.testing.assert_array_equal(decode(encode(image[:1], 96)[2]), image[0])
    np.testing.assert_array_equal(decode(encode(image[:2], 96)[2]), image[0])


def test_pictures_are_reduced_and_keep_their_shape() -> None:
    width, height, address = encode(np.full((3, 300, 600), 77, dtype=np.uint8), 60)
    assert (width, height) == (60, 30) and (decode(address) == 77).all()
    assert encode(np.zeros((1, 5000, 1), dtype=np.uint8), 60)[:2] == (1, 60)


def test_picture_budget_holds_for_noise() -> None:
    side = side_for(180)
    noise = np.random.default_rng(0).integers(0, 256, (3, 224, 224), dtype=np.uint8)
    assert 180 * len(encode(noise[:, :side, :side], side)[2]) < 2_100_000
    assert side_for(1) == 96


def luminance(colour: str) -> float:
    """Relative luminance of #rgb or #rrggbb as WCAG 2 defines it."""
    digits = colour.lstrip("#")
    digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
    channels = [int(digits[start : start + 2], 16) / 255 for start in (0, 2, 4)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1])
def test_contrast(theme: int) -> None:
    """Text at least 4.5:1 on every ground it stands on, marks of charts at least 3:1 (WCAG 2 AA), light and dark."""
    assert contrast("#fff", "#000") == pytest.approx(21.0)
    colours = [
        dict(re.findall(r"--([\w-]+):(#[0-9a-f]+)", block)) for block in re.findall(r":root\{(.*?)\}", STYLE, re.S)
    ][theme]
    for ground in ("page", "panel", "good-bg", "warn-bg", "bad-bg"):
        assert min(contrast(colours[text], colours[ground]) for text in ("ink", "soft", "link")) >= 4.5, ground
    for tone in ("good", "warn", "bad"):
        assert min(contrast(colours[tone], colours[ground]) for ground in ("page", f"{tone}-bg")) >= 4.5, tone
        assert contrast(colours["bad"], colours[f"{tone}-bg"]) >= 4.5  # a loss is told in every verdict's box
    marks = {mark: contrast(colours[mark], colours["page"]) for mark in [f"c{index}" for index in range(8)] + ["quiet"]}
    assert min(marks.values()) >= 3.0, marks
    ramp = [luminance(colours[f"r{index}"]) for index in range(8)]
    assert ramp == sorted(ramp, reverse=theme == 0)  # early pale, late strong against the ground
