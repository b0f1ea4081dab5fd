"""Images in: sources, decoding, splits, and the order in which samples are presented.

Importing the room costs nothing: its names are looked up when they are first used, and only `Loader` needs torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from siamscope.data.config import DataConfig
from siamscope.data.errors import DataError

if TYPE_CHECKING:
    from siamscope.data.folder import Rejected
    from siamscope.data.loader import Loader
    from siamscope.data.open import Dataset, open_dataset
    from siamscope.data.order import IidOrder, Order, rows
    from siamscope.data.progress import Progress, console_progress
    from siamscope.data.source import ArraySource, ShapesSource, Source, Subset, channel_stats

__all__ = [
    "ArraySource",
    "DataConfig",
    "DataError",
    "Dataset",
    "IidOrder",
    "Loader",
    "Order",
    "Progress",
    "Rejected",
    "ShapesSource",
    "Source",
    "Subset",
    "channel_stats",
    "console_progress",
    "open_dataset",
    "rows",
]

_HOME = {
    "Rejected": "folder",
    "Loader": "loader",
    "Dataset": "open",
    "open_dataset": "open",
    "IidOrder": "order",
    "Order": "order",
    "rows": "order",
    "Progress": "progress",
    "console_progress": "progress",
    "ArraySource": "source",
    "ShapesSource": "source",
    "Source": "source",
    "Subset": "source",
    "channel_stats": "source",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"siamscope.data.{_HOME[name]}"), name)
