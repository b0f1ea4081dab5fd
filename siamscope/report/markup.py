"""Markup that cannot forget to escape: a plain `str` is text, only `Html` is markup.

File and class names come from whoever made the images, so every string that enters the page passes `visible` (control,
direction-changing and lone surrogate characters become readable codes) and then HTML escaping, for text and attributes
alike. `Html` values are made by `tag` and `join` only.
"""

import html
import math
import unicodedata

_VOID = frozenset({"meta", "img", "br", "link", "hr"})
_SVG_LEAVES = frozenset({"path", "rect", "line", "circle"})
_JOINERS = "\u200c\u200d"  # zero-width (non-)joiner: ordinary spelling in Persian and in emoji
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
PERCENT = "\u00a0%"
DASH = "–"  # stands for a figure that is not there


class Html(str):
    """A string that is markup already."""

    __slots__ = ()


Child = Html | str | None


def visible(text: str) -> str:
    """`text` with control, bidirectional and surrogate characters written as codes such as ⟨U+202E⟩."""
    if text.isprintable():
        return text
    return "".join(_visible_character(character) for character in text)


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in _JOINERS:
        return character
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"⟨U+{ord(character):04X}⟩"
    return character


def escape(text: str) -> Html:
    """`text`, safe inside an element or a quoted attribute."""
    return Html(html.escape(visible(text), quote=True))


def join(*children: Child) -> Html:
    """Children one after the other; plain strings are escaped, None is skipped."""
    return Html("".join(child if isinstance(child, Html) else escape(child) for child in children if child is not None))


def tag(name: str, *children: Child, **attributes: str | float | bool | None) -> Html:
    """One element. `class_` gives class, `aria_label` aria-label; True a bare attribute; None and False none."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Html(f"<{name}{written}>")
    if name in _SVG_LEAVES and not children:
        return Html(f"<{name}{written}/>")
    return Html(f"<{name}{written}>{join(*children)}</{name}>")


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    key = key.rstrip("_").replace("_", "-")
    if value is True:
        return f" {key}"
    return f' {key}="{escape(value if isinstance(value, str) else f"{value:.5g}")}"'


def shorten(text: str, length: int = 48) -> str:
    """At most `length` characters, the middle left out: both the folder and the ending of a file name stay."""
    if len(text) <= length:
        return text
    tail = length // 3
    return f"{text[: length - tail - 1]}…{text[-tail:]}"


def name(text: str, length: int = 48) -> Html:
    """An untrusted name: isolated from the direction of its surroundings, shortened, whole in the tooltip."""
    short = shorten(text, length)
    return tag("bdi", short, class_="name", title=shorten(text, 400) if short != text else None)


def number(value: float | None, digits: int = 3) -> str:
    """`value` to `digits` significant digits: 0.8312 → 0.831, 12345 → 12,345, 1.2e-7 → 1.2×10⁻⁷, NaN → –."""
    if value is None or math.isnan(value):
        return DASH
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if -4 < exponent < 7:
        return f"{value:,.{max(0, digits - 1 - exponent)}f}".replace("-", "−")
    mantissa, power = f"{value:.{digits - 1}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
    return f"{mantissa}×10{str(int(power)).translate(_SUPERSCRIPTS)}".replace("-", "−", 1)


def whole(value: float | None) -> str:
    """A count: 50000 → 50,000; missing → –."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{round(value):,}"


def percent(value: float | None) -> str:
    """An accuracy of 0..1 as a percentage with one decimal: 0.6234 → 62.3 %."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{100 * value:.1f}{PERCENT}"


def points(gain: float | None) -> str:
    """A difference of two accuracies in percentage points, with its sign: 0.3415 → +34.2 (to be read as points)."""
    if gain is None or not math.isfinite(gain):
        return DASH
    return f"{100 * gain:+.1f}".replace("-", "−")


def superscript(power: int) -> str:
    """10 to the `power`, as in 10⁻³."""
    return f"10{str(power).translate(_SUPERSCRIPTS)}"
