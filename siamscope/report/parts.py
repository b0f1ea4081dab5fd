"""Building blocks of the page: sections, figures, tables, folded lists."""

import json
from collections.abc import Mapping, Sequence

from siamscope.report.markup import Child, Html, join, shorten, tag

_TEXT_LIMIT = 100_000


def section(identifier: str, title: str, *content: Child) -> Html:
    """A section with its heading, named for the table of contents and for screen readers."""
    return tag("section", tag("h2", title, id=identifier), *content, aria_labelledby=identifier)


def figure(caption: Html | str, *content: Child, class_: str | None = None) -> Html:
    """Content with a numbered caption (the number comes from the style sheet)."""
    return tag("figure", *content, tag("figcaption", caption), class_=class_)


def panel(title: str, *content: Child) -> Html:
    """One chart with its title, which also names the y axis and its unit."""
    return tag("div", tag("h3", title, class_="panel-title"), *content, class_="panel")


def paragraph(*content: Child, class_: str | None = None) -> Html:
    """A paragraph."""
    return tag("p", *content, class_=class_)


def items(texts: Sequence[Html | str]) -> Html:
    """A bulleted list."""
    return tag("ul", *(tag("li", text) for text in texts))


def folded(summary: Html | str, *content: Child, class_: str | None = None) -> Html:
    """Content that a reader opens when wanted."""
    return tag("details", tag("summary", summary), *content, class_=class_)


def table(
    head: Sequence[Html | str],
    rows: Sequence[Sequence[Html | str]],
    *,
    caption: str | None = None,
    class_: str = "data",
) -> Html:
    """A table that scrolls inside its own box when wider than the page; the first cell of a row is its heading."""
    body = (
        tag("tr", tag("th", row[0], scope="row"), *(cell if _is_cell(cell) else tag("td", cell) for cell in row[1:]))
        for row in rows
    )
    inner = tag(
        "table",
        tag("caption", caption) if caption and class_ == "settings" else None,
        tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if any(head) else None,
        tag("tbody", *body),
        class_=class_,
    )
    if class_ == "settings":  # its cells wrap, so it is never wider than the page
        return inner
    box = tag("div", inner, class_="scroll", tabindex="0", role="region", aria_label=caption or "Table")
    return tag("div", paragraph(caption, class_="caption"), box) if caption else box


def _is_cell(cell: Html | str) -> bool:
    return isinstance(cell, Html) and cell.startswith("<td")


def best(text: str) -> Html:
    """A cell that holds the best figure of its column: bold and marked, not by colour alone."""
    return tag("td", tag("strong", text), class_="best")


def settings(rows: Mapping[str, str], caption: str | None = None) -> Html:
    """Names and values, without column heads."""
    cells = [(name_of(key), tag("td", tag("code", shorten(value, 300)))) for key, value in rows.items()]
    return table((), cells, caption=caption, class_="settings")


def name_of(key: str) -> Html:
    """A setting's name, breakable after its dots and underscores on a narrow screen."""
    pieces = shorten(key, 100).replace("_", "_\0").replace(".", ".\0").split("\0")
    spaced: list[Child] = [pieces[0]]
    for piece in pieces[1:]:
        spaced += [Html("<wbr>"), piece]
    return join(*spaced)


def setting(value: object) -> str:
    """A setting as a reader would write it: text plain, lists with commas, the rest as in TOML."""
    if isinstance(value, str):
        return value if value else '""'
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        return "none"
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        return ", ".join(setting(item) for item in value) or "[]"
    if isinstance(value, dict | list):
        return json.dumps(value, default=str, ensure_ascii=False)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """Nested tables as dotted names with readable values."""
    flat: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = setting(value)
    return flat


def raw_text(text: str) -> Html:
    """A file as it is, in a box of its own."""
    cut = text[:_TEXT_LIMIT]
    more = f"\n… {len(text) - _TEXT_LIMIT:,} more characters are in the file." if len(text) > _TEXT_LIMIT else ""
    return tag("pre", tag("code", cut + more), tabindex="0")
