"""A decoding process: `python -m siamscope.data.worker`. Jobs come as lines of JSON; pixels go into the cache file.

A process of its own rather than a fork or multiprocessing: it imports neither torch nor the caller's main module, a
fork of a program with threads is avoided, and when the parent is gone its input ends and so does it.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np

from siamscope.data.decode import DecodeOptions, Unusable, decode, own_limits


def decode_rows(root: str, paths: list[str], first: int, options: DecodeOptions, file: Path) -> dict[str, Any]:
    """Decode files into rows first, first + 1, ... of a cache file that exists. An unusable file leaves zeros.

    Returns {"first", "count", "digest": of the rows, "rejected": [[row, reason, passing], ...]}. Raises OSError if
    the rows cannot be written.
    """
    size, channels = options.size, options.channels
    pixels = np.zeros((len(paths), size, size, channels), np.uint8)
    rejected = []
    for place, path in enumerate(paths):
        try:
            pixels[place] = decode(os.path.join(root, path), options).reshape(size, size, channels)  # noqa: PTH118
        except Unusable as reason:
            rejected.append([first + place, str(reason), reason.passing])
    planes = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    with file.open("rb+") as output:  # written, not mapped: a full disk is then an error and not a killed process
        output.seek(first * planes[0].nbytes)
        output.write(planes.data)
    digest = hashlib.blake2b(planes.data, digest_size=16).hexdigest()
    return {"first": first, "count": len(paths), "digest": digest, "rejected": rejected}


def main() -> None:
    """Serve jobs from standard input until it ends. The first line holds the folder, the file and the options."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides what follows
    job = json.loads(sys.stdin.buffer.readline())
    options = DecodeOptions(**job["options"])
    with own_limits():
        for line in sys.stdin.buffer:
            chunk = json.loads(line)
            try:
                reply = decode_rows(job["root"], chunk["paths"], chunk["first"], options, Path(job["file"]))
            except OSError as error:
                reply = {"errno": error.errno, "strerror": error.strerror}
            sys.stdout.buffer.write(json.dumps(reply).encode("ascii") + b"\n")
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
