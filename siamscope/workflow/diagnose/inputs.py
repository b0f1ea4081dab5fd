"""What the words on the command line name: a run, a checkpoint, an encoder, a model of timm, or a file of features."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from siamscope.training.progress import Reporter
from siamscope.workflow.diagnose import arrays
from siamscope.workflow.diagnose.loaded import EMBEDDINGS, Ask, DiagnoseError, Loaded

TIMM = "timm:"


def kind_of(word: str) -> str:
    """run, checkpoint, encoder, timm or file.

    Raises:
        DiagnoseError: nothing there, or nothing that has features.
    """
    if word.startswith(TIMM):
        return "timm"
    path = Path(word).expanduser()
    try:
        if path.is_dir():
            return _of_folder(path, word)
        if not path.is_file():
            raise DiagnoseError(f"there is no file, run or folder {word!r} (a model of timm is written timm:NAME)")
    except OSError as error:
        raise DiagnoseError(f"cannot look at {word!r}: {error.strerror}") from error
    ending = path.suffix.lower()
    if ending == ".pt":
        return "checkpoint"
    if ending in (".json", ".safetensors"):
        return "encoder"
    if ending in arrays.ENDINGS:
        return "file"
    raise DiagnoseError(
        f"{word!r} is of no known kind; give a run directory, a checkpoint (.pt), an encoder (.safetensors, .json), "
        f"features ({', '.join(arrays.ENDINGS)}) or timm:NAME"
    )


def _of_folder(path: Path, word: str) -> str:
    if (path / "recipe.toml").is_file():
        return "run"
    if (path / "encoder.json").is_file():
        return "encoder"
    names = sorted(item.name for item in path.iterdir())
    inside = sorted(name for name in names if (path / name / "recipe.toml").is_file())
    hint = f"; did you mean {str(path / inside[0])!r}?" if inside else ""
    what = "is empty" if not names else "is neither a run directory (no recipe.toml) nor holds an encoder"
    raise DiagnoseError(f"the folder {word!r} {what}{hint}")


def load(word: str, ask: Ask, reporter: Reporter) -> Loaded:
    """The features that a word names.

    Raises:
        DiagnoseError, RunError, CheckpointError, NetworkError, DataError: what is wrong with the input.
    """
    kind = kind_of(word)
    path = Path(word).expanduser()
    if kind == "file":
        found = arrays.read(path, word, ask.split)
        return replace(found, about=found.about | {"layer": EMBEDDINGS}) if ask.embeddings else found
    from siamscope.workflow.diagnose import images, nets

    dataset = None
    if kind == "run":
        net, dataset = nets.of_run(path, reporter)
    elif kind == "checkpoint":
        net, dataset = nets.of_checkpoint(path, reporter)
    else:
        net = nets.of_timm(word) if kind == "timm" else nets.of_encoder(path)
    return images.load(word, net, dataset, ask, reporter)
