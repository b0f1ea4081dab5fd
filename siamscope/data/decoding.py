"""Decodes images whose bytes are in memory, in threads: Pillow lets go of the interpreter while it works."""

import contextlib
import io
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice

import numpy as np

from siamscope.data.cache import Part, Written
from siamscope.data.decode import DecodeOptions, Unusable, decode, own_limits
from siamscope.data.pool import step_rows, worker_count
from siamscope.data.progress import Progress
from siamscope.data.source import Images, pixel_hash
from siamscope.data.tables import Encoded

Rejection = tuple[int, str, bool]
"""Place, reason, and whether the cause may pass."""


def decoded(images: Sequence[Encoded], options: DecodeOptions) -> tuple[Images, list[Rejection]]:
    """Decode to uint8 (n, C, S, S), zeros for what was set aside. Safe to call from threads."""
    pixels = np.zeros((len(images), options.size, options.size, options.channels), np.uint8)
    rejected: list[Rejection] = []
    with _limits:
        for place, image in enumerate(images):
            try:
                pixels[place] = decode_one(image, options).reshape(pixels.shape[1:])
            except Unusable as reason:
                rejected.append((place, str(reason), reason.passing))
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)), rejected


def decode_one(image: Encoded, options: DecodeOptions) -> Images:
    """Decode one image. Raises Unusable."""
    if image is None:
        raise Unusable("the row holds no image")
    return decode(io.BytesIO(image) if isinstance(image, bytes) else str(image), options)


def filler(
    rows: Callable[[int, int], Iterable[Encoded]], total: int, options: DecodeOptions, workers: int, progress: Progress
) -> Callable[[Part], Written]:
    """Fills shards of a cache with `rows(first, stop)`, of which there are `total`. Only a few pieces are in memory."""
    step, threads = step_rows(options), worker_count(workers)

    def pieces(part: Part, pool: ThreadPoolExecutor) -> Iterator[tuple[Images, list[Rejection]]]:
        images = iter(rows(part.first, part.stop))
        waiting: deque[Future[tuple[Images, list[Rejection]]]] = deque()
        while piece := list(islice(images, step)):
            waiting.append(pool.submit(decoded, piece, options))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()

    def fill(part: Part) -> Written:
        done = part.ready
        progress("decoding images", done, total)
        written = Written([], {})
        passing = False
        with contextlib.ExitStack() as stack:
            file = stack.enter_context(part.file.open("rb+")) if part.file else None
            pool = stack.enter_context(ThreadPoolExecutor(threads, "siamscope-decode"))
            for at, (planes, rejected) in enumerate(pieces(part, pool)):
                if file:
                    file.write(planes.data)
                written.digests.append(pixel_hash(planes))
                written.rejected.update({part.first + at * step + place: reason for place, reason, _ in rejected})
                passing |= any(may_pass for *_, may_pass in rejected)
                done += len(planes)
                progress("decoding images", done, total)
        return Written(written.digests, written.rejected, passing)

    return fill


class _Limits:
    """`own_limits` for as long as any thread is in it: Pillow's limit is one for the whole process."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stack.enter_context(own_limits())
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stack.close()


_limits = _Limits()
