"""Batches as torch tensors: from images that lie on the device, or read from the cache while the device works."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from siamscope.data.errors import DataError
from siamscope.data.order import Order, rows
from siamscope.data.source import Source

_PIECE = 4096


class Loader:
    """Hands out this process's share of each step's batch.

    device_resident: keep all images on `device` (choose it if they fit). Otherwise threads read `prefetch` batches
    ahead from the source, in pinned memory for a GPU. Both ways give the same batches. Close it, or use it in `with`.
    Raises DataError if the batch cannot be shared out among `world` processes.
    """

    def __init__(
        self,
        source: Source,
        order: Order,
        *,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        device_resident: bool = True,
        prefetch: int = 4,
    ) -> None:
        if prefetch < 1:
            raise DataError(f"prefetch must be at least 1 batch; got {prefetch}")
        self._source, self._order = source, order
        self._rows = rows(rank, world, order.batch_size)
        self._device = torch.device(device)
        self._prefetch = prefetch
        self._images = self._load_all() if device_resident else None
        self._threads = None if device_resident else ThreadPoolExecutor(min(prefetch, 4), "siamscope-read")

    def batches(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[Tensor, NDArray[np.int64]]]:
        """For each step from `start` on (for ever, or until `stop`): images uint8 (b, C, S, S) on the device, and
        their indices in the source, int64 (b,). May be called again, with any step.
        """
        steps = iter(range(start, stop) if stop is not None else _count_from(start))
        if self._threads is None:
            for step in steps:
                yield self.batch(step)
            return
        waiting: deque[Future[tuple[Tensor, NDArray[np.int64]]]] = deque()
        try:
            for step in steps:
                waiting.append(self._threads.submit(self._read, step))
                if len(waiting) > self._prefetch:
                    yield self._moved(waiting.popleft().result())
            while waiting:
                yield self._moved(waiting.popleft().result())
        finally:
            for future in waiting:
                future.cancel()

    def batch(self, step: int) -> tuple[Tensor, NDArray[np.int64]]:
        """The batch of one step, without reading ahead."""
        if self._images is None:
            return self._moved(self._read(step))
        indices = self._order.batch(step)[self._rows]
        return self._images[torch.from_numpy(indices).to(self._device)], indices

    def close(self) -> None:
        """Stop the threads and let go of the images."""
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
        self._images = None

    def __enter__(self) -> "Loader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _load_all(self) -> Tensor:
        source = self._source
        images = torch.empty(len(source), source.channels, source.size, source.size, dtype=torch.uint8)
        for start in range(0, len(source), _PIECE):
            part = np.arange(start, min(start + _PIECE, len(source)), dtype=np.int64)
            images[start : start + len(part)] = torch.from_numpy(source.read(part))
        return images.to(self._device)

    def _read(self, step: int) -> tuple[Tensor, NDArray[np.int64]]:
        indices = self._order.batch(step)[self._rows]
        images = torch.from_numpy(self._source.read(indices))
        return (images.pin_memory() if self._device.type == "cuda" else images), indices

    def _moved(self, batch: tuple[Tensor, NDArray[np.int64]]) -> tuple[Tensor, NDArray[np.int64]]:
        images, indices = batch
        return images.to(self._device, non_blocking=True), indices


def _count_from(start: int) -> Iterator[int]:
    while True:
        yield start
        start += 1
