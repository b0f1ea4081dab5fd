"""Figures drawn from the gallery: the map, the nearest neighbours, the augmented views."""

import numpy as np

from siamscope.report.gallery import EmbeddingMap, Gallery, Neighbours
from siamscope.report.images import channels_note, side_for, thumbnail
from siamscope.report.markup import Html, join, name, number, percent, shorten, tag, whole
from siamscope.report.parts import figure, paragraph
from siamscope.report.svg import category, key, legend, scatter

_MAP_POINTS = 3000
_LEGEND_CLASSES = 40
_QUERIES, _NEIGHBOURS = 12, 8
_VIEW_ROWS, _VIEWS = 8, 8
_SIDE = side_for(_QUERIES * (1 + _NEIGHBOURS) + _VIEW_ROWS * (1 + _VIEWS))


def embedding_map(gallery: Gallery | None) -> Html:
    """The PCA map, coloured by class where labels are known."""
    if gallery is None or gallery.map is None:
        return paragraph("No map: the gallery holds none.", class_="absent")
    points = _sample(gallery.map)
    labels = [int(label) for label in points.labels]
    classes = sorted({label for label in labels if label >= 0})
    places = {label: place for place, label in enumerate(classes)}
    titles = [_title(gallery, label, text) for label, text in zip(labels, points.names, strict=True)]
    axes = [
        f"{which} principal component{_share(value)}"
        for which, value in zip(("First", "Second"), points.explained, strict=True)
    ]
    described = (
        f"Scatter of {len(labels):,} validation images on two principal components, {len(classes)} known classes."
    )
    chart = scatter(points.points, [places.get(label, -1) for label in labels], titles, axes[0], axes[1], described)
    return figure(
        _map_caption(len(labels), len(gallery.map.points), classes), chart, _map_keys(gallery, classes), class_="mapped"
    )


def _sample(whole_map: EmbeddingMap) -> EmbeddingMap:
    """At most 3,000 points in a fixed random order, so that no class hides another only by being drawn later."""
    order = np.random.default_rng(0).permutation(len(whole_map.points))[:_MAP_POINTS]
    return EmbeddingMap(
        whole_map.points[order],
        whole_map.labels[order],
        whole_map.explained,
        tuple(whole_map.names[index] for index in order),
    )


def _title(gallery: Gallery, label: int, text: str) -> str:
    known = [part for part in (gallery.class_name(label), text) if part]
    return shorten(", ".join(known), 80) or "unlabelled"


def _share(value: float) -> str:
    return f", {percent(value)} of variance" if np.isfinite(value) else ""


def _map_caption(shown: int, count: int, classes: list[int]) -> str:
    text = f"{shown:,} validation images" if shown == count else f"{shown:,} of {count:,} validation images"
    text += " on the first two principal components of what the encoder makes of them, at one scale on both axes. "
    if classes:
        text += "Classes differ by colour and by shape; the labels were not used to make the map."
        text += " With more than 40 classes the marks repeat." if len(classes) > _LEGEND_CLASSES else ""
    else:
        text += "There are no labels, so all points look alike."
    return text + " Two components show a small part of the variance: classes that overlap here may be apart elsewhere."


def _map_keys(gallery: Gallery, classes: list[int]) -> Html | None:
    if not classes:
        return None
    keys = []
    for place, label in enumerate(classes[:_LEGEND_CLASSES]):
        colour, marker = category(place)
        keys.append(key(name(gallery.class_name(label) or "", 28), colour, marker=marker))
    if len(classes) > _LEGEND_CLASSES:
        keys.append(tag("li", f"and {len(classes) - _LEGEND_CLASSES:,} more classes"))
    return legend(*keys)


def neighbours(gallery: Gallery | None) -> Html:
    """Some validation images, each with the images that the encoder finds most alike."""
    found = gallery.neighbours if gallery else None
    if gallery is None or found is None:
        return paragraph("No neighbours: the gallery holds none.", class_="absent")
    shown = range(min(len(found.queries), _QUERIES))
    cards = [_card(gallery, found, query) for query in shown]
    labelled = bool((found.query_labels >= 0).any())
    caption = "Each query (framed) and the images nearest to it in feature space; below each, its cosine similarity."
    caption += " ✓ and ✗: of the query’s class or not." if labelled else ""
    caption += " " + channels_note(found.queries.shape[1])
    caption += f" The first {len(shown)} of {len(found.queries):,} queries." if len(shown) < len(found.queries) else ""
    return figure(caption.strip(), tag("div", *cards, class_="cards"))


def _card(gallery: Gallery, found: Neighbours, query: int) -> Html:
    label = int(found.query_labels[query])
    text = found.query_names[query]
    called = shorten(text or gallery.class_name(label) or f"query {query + 1}", 60)
    picture = thumbnail(found.queries[query], _SIDE, f"Query: {called}", called)
    class_name = gallery.class_name(label)
    about = join(
        tag("b", name(class_name, 24)) if class_name else None,
        " " if class_name and text else None,
        name(text, 32) if text else None,
    )
    rows = [_neighbour(gallery, found, query, rank) for rank in range(min(found.images.shape[1], _NEIGHBOURS))]
    return tag(
        "div",
        tag("div", about or f"Query {query + 1}", class_="who"),
        tag("div", picture, class_="query"),
        tag("ol", *rows, class_="found"),
        class_="card",
    )


def _neighbour(gallery: Gallery, found: Neighbours, query: int, rank: int) -> Html:
    label = int(found.labels[query, rank])
    known = [part for part in (gallery.class_name(label), found.names[query][rank]) if part]
    called = shorten(", ".join(known), 80)
    similarity = number(float(found.similarity[query, rank]), 3)
    query_label = int(found.query_labels[query])
    match: Html | None = None
    if label >= 0 and query_label >= 0:
        agrees = label == query_label
        words = "same class" if agrees else f"other class: {shorten(gallery.class_name(label) or '', 40)}"
        mark = tag("span", "✓" if agrees else "✗", aria_hidden="true")
        match = tag(
            "span", mark, tag("span", words, class_="hidden"), class_="same" if agrees else "other", title=words
        )
    picture = thumbnail(found.images[query, rank], _SIDE, f"Neighbour {rank + 1}: {called}", called or None)
    return tag("li", picture, tag("span", similarity, " ", match, class_="under"))


def views(gallery: Gallery | None) -> Html:
    """Some images beside their augmented views."""
    array = gallery.views if gallery else None
    if array is None:
        return paragraph("No views: the gallery holds none.", class_="absent")
    rows, count = min(len(array), _VIEW_ROWS), min(array.shape[1], 1 + _VIEWS)
    groups = []
    for row in range(rows):
        pictures = [
            thumbnail(array[row, view], _SIDE, f"Image {row + 1}, " + (f"view {view}" if view else "original"))
            for view in range(count)
        ]
        groups.append(
            tag("div", tag("span", pictures[0], class_="query"), *pictures[1:], class_="views", style=f"--n:{count}")
        )
    caption = (
        f"Originals (framed) and {whole(count - 1)} augmented views of each: what the network is asked to map to "
        "one place. If a view no longer shows what makes the image what it is, the augmentation is too strong. "
    )
    return figure(caption + channels_note(array.shape[2]), tag("div", *groups, class_="pairs"))
