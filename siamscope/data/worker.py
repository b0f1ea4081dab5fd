"""A decoding process: `python -m siamscope.data.worker`. Jobs come as lines of JSON on standard input; pixels go into
a file, or back through standard output. Nothing goes through shared memory (/dev/shm).

A process of its own rather than a fork or multiprocessing: it imports neither torch nor the caller's main module, a
fork of a program with threads is avoided, and when the parent is gone its input ends and so does it.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.data.decode import DecodeOptions, Unusable, decode, own_limits
from siamscope.data.source import Images, pixel_hash


def decode_rows(root: str, task: dict[str, Any], options: DecodeOptions) -> tuple[Images, list[tuple[int, str, bool]]]:
    """Decode the files of a task: `paths` below `root`, or the `spans` (offset, bytes) of them.

    A file whose size and time of change are not those in `states` has changed since it was listed: it is set aside too.
    Returns uint8 (n, C, S, S), zeros for what was set aside, and of each such place: (place, reason, passing).
    """
    size, channels = options.size, options.channels
    pixels = np.zeros((len(task["paths"]), size, size, channels), np.uint8)
    rejected = []
    for place, path in enumerate(task["paths"]):
        full = os.path.join(root, path)  # noqa: PTH118
        try:
            image = decode(_part(full, *task["spans"][place]) if task["spans"] else full, options)
            if task["states"]:
                _require(full, task["states"][place])
            pixels[place] = image.reshape(size, size, channels)
        except Unusable as reason:
            rejected.append((place, str(reason), reason.passing))
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), rejected


def _part(path: str, offset: int, nbytes: int) -> io.BytesIO:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            file.seek(offset)
            return io.BytesIO(file.read(nbytes))
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}", passing=True) from None


def _require(path: str, state: Sequence[int]) -> None:
    try:
        status = os.stat(path)  # noqa: PTH116
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}", passing=True) from None
    if (status.st_size, status.st_mtime_ns) != tuple(state):
        raise Unusable("it was changed after the folder was listed", passing=True)


def written_rows(root: str, task: dict[str, Any], options: DecodeOptions) -> tuple[dict[str, Any], Images | None]:
    """Do a task: the reply, and the pixels if they are asked for (`pixels`) rather than written (`file`, or nowhere).

    The reply is {"digest": of the pixels, "rejected": [[place, reason, passing], ...]}. Raises OSError if they cannot
    be written.
    """
    planes, rejected = decode_rows(root, task, options)
    if task["pixels"]:
        return {"rejected": rejected}, planes
    if task["file"]:
        with Path(task["file"]).open("rb+") as output:  # a full disk is then an error and not a killed process
            output.seek(task["at"] * planes[0].nbytes)
            output.write(planes.data)
    return {"digest": pixel_hash(planes), "rejected": rejected}, None


def main() -> None:
    """Serve tasks from standard input until it ends. The first line holds the folder and the options."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what follows
    job = json.loads(sys.stdin.buffer.readline())
    options = DecodeOptions(**job["options"])
    with own_limits():
        for line in sys.stdin.buffer:
            planes = None
            try:
                reply, planes = written_rows(job["root"], json.loads(line), options)
            except OSError as error:
                reply = {"errno": error.errno, "strerror": error.strerror}
            sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
            if planes is not None:
                sys.stdout.buffer.write(planes.data)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
