"""The page itself: head, contents, sections in order, and writing it without ever leaving half a file."""

from collections.abc import Sequence
from pathlib import Path

from siamscope.files import write_atomically
from siamscope.report import compare, curves, pictures, sections, timing
from siamscope.report.errors import ReportError
from siamscope.report.markup import Html, join, name, shorten, tag, whole
from siamscope.report.parts import flatten, paragraph, section
from siamscope.report.read import RunData, read_run
from siamscope.report.style import STYLE

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_Section = tuple[str, str, Html]


def write(run_dirs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of one run (default: `report.html` in it), or of several side by side (default: ./report.html).

    The file appears whole or not at all. Returns its path. Raises ReportError when a path is not a run directory or the
    report cannot be written.
    """
    if not run_dirs:
        raise ReportError("No run directory given; name at least one that `siamscope train` wrote.")
    paths = [Path(path) for path in run_dirs]
    runs = [read_run(path, label) for path, label in zip(paths, _labels(paths), strict=True)]
    target = Path(out) if out is not None else (paths[0] if len(runs) == 1 else Path()) / "report.html"
    if target.is_dir():
        target = target / "report.html"
    write_whole(target, single(runs[0]) if len(runs) == 1 else comparison(runs))
    return target


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest trailing part of each path that tells all of them apart; a run given twice keeps its number."""
    full = [path.resolve().parts for path in paths]
    for depth in range(1, max(len(parts) for parts in full) + 1):
        labels = ["/".join(parts[-depth:]) for parts in full]
        if len(set(labels)) == len(set(full)):
            break
    return [label if labels.count(label) == 1 else f"{label} ({index})" for index, label in enumerate(labels, 1)]


def write_whole(target: Path, text: str) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(target, lambda stream: stream.write(text.encode("utf-8")))
    except OSError as error:
        raise ReportError(f"Cannot write {target}: {error.strerror}. Choose another place with --out.") from error


def single(run: RunData) -> str:
    """The page of one run."""
    parts: list[_Section] = [
        ("verdict", "Verdict", sections.verdict(run)),
        ("curves", "Curves", curves.curves(run)),
        ("spectrum", "Spectrum", curves.spectrum(run)),
        ("map", "Map", pictures.embedding_map(run.gallery)),
        ("neighbours", "Nearest neighbours", pictures.neighbours(run.gallery)),
        ("views", "Augmented views", pictures.views(run.gallery)),
        ("figures", "Figures", sections.figures(run)),
        ("recipe", "Recipe", sections.recipe(run)),
        ("environment", "Environment", sections.environment(run)),
        ("rejected", "Files set aside", sections.rejected(run)),
    ]
    if run.profile is not None:
        parts.insert(-2, ("timing", "Where the time went", timing.timing(run)))
    return document(run.label, _about(run), parts)


def comparison(runs: Sequence[RunData]) -> str:
    """The page that lays several runs side by side."""
    parts: list[_Section] = [
        ("verdict", "Verdicts", compare.verdicts(runs)),
        ("figures", "Figures", compare.figures(runs)),
        ("curves", "Curves", curves.overlaid_curves(runs)),
        ("spectrum", "Spectra", curves.overlaid_spectra(runs)),
        ("recipe", "What differs in the recipes", compare.differing(runs)),
        ("environment", "What differs in the environments", compare.environments(runs)),
    ]
    return document(f"{len(runs)} runs side by side", [run.label for run in runs[:12]], parts)


def _about(run: RunData) -> list[str]:
    """The run in a few words: method, backbone, data, length, device; what is not known is left out."""
    known = flatten(run.recipe or {})
    about = [
        next((known[key] for key in keys if known.get(key)), "")
        for keys in (
            ("method.name", "method"),
            ("network.backbone", "network.name"),
            ("data.source", "data.name", "data"),
        )
    ]
    last = max(
        (table.last("step") for table in (run.metrics.steps, run.metrics.monitors.table) if len(table)), default=0
    )
    epochs = max(
        (table.last("epoch") for table in (run.metrics.steps, run.metrics.monitors.table) if len(table)), default=0
    )
    if last > 0:
        about.append(f"{whole(last)} steps" + (f", {epochs:.3g} epochs" if epochs > 0 else ""))
    environment = flatten(run.environment or {})
    about.append(environment.get("device", ""))
    about.append(environment.get("started", ""))
    return [shorten(part, 60) for part in about if part]


def document(title: str, about: Sequence[str], parts: Sequence[_Section]) -> str:
    contents = tag(
        "nav",
        tag("ol", *(tag("li", tag("a", heading, href=f"#{identifier}")) for identifier, heading, _ in parts)),
        aria_label="Contents",
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name_="color-scheme", content="light dark"),
        tag("meta", name_="referrer", content="no-referrer"),
        tag("title", f"{shorten(title, 80)} · siamscope report"),
        tag("link", rel="icon", href="data:,"),
        tag("style", Html(STYLE)),
    )
    facts = [part for index, fact in enumerate(about) for part in ((" · " if index else None), name(fact, 60))]
    header = tag(
        "header",
        paragraph("siamscope report", class_="kicker"),
        tag("h1", name(title, 80)),
        paragraph(*facts, class_="about") if facts else None,
        contents,
    )
    main = tag("main", *(section(*part) for part in parts), id="content")
    footer = tag(
        "footer", paragraph("Written by siamscope. This page loads nothing from elsewhere and runs no script.")
    )
    skip = tag("a", "Skip to the verdict", href="#verdict", class_="skip")
    body = tag("body", skip, header, main, footer)
    return join(Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en"), "\n")
