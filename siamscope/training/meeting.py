"""Where the processes of one start of a run meet, apart from those of an earlier start.

torchrun restarts processes with the key-value store of its agent still full of what the last ones wrote there, and
gloo finds the addresses of dead processes in it and waits for ever (seen with torch 2.13; pytorch issue 135712). And no
variable of torchrun's tells the starts apart on every host: TORCHELASTIC_RESTART_COUNT counts for each agent alone. So
rank 0 draws a token, and everyone waits until rank 0 has seen that very process: keys under the token are then of this
start only.
"""

from __future__ import annotations

import json
import os
import time
from datetime import timedelta
from typing import Any, Protocol
from uuid import uuid4

PAUSE = 0.02
"""Seconds between two looks into the store."""


class Store(Protocol):
    """What meeting needs of torch's key-value stores."""

    def set(self, key: str, value: str) -> None: ...
    def get(self, key: str) -> bytes: ...
    def check(self, keys: list[str]) -> bool: ...


def kept_by_agent() -> bool:
    """Whether the store outlives the processes."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def connection(seconds: float = 60) -> Any:
    """A connection of one's own to the store of the run."""
    from torch import distributed

    c10d: Any = distributed  # its stores have no types
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    return c10d.TCPStore(address, port, is_master=False, timeout=timedelta(seconds=seconds))


def prefixed(token: str, store: Any) -> Any:
    """The store's part whose keys begin with the token."""
    from torch import distributed

    c10d: Any = distributed
    return c10d.PrefixStore(f"siamscope/{token}", store)


def meet(store: Store, rank: int, size: int, seconds: float) -> str:
    """The token of this start, the same on all its processes and new in every start.

    Raises:
        TimeoutError: not all of them came within `seconds`; the message names the missing ranks, as far as rank 0 may
            know them.
    """
    me, until = uuid4().hex, time.monotonic() + seconds
    return _invite(store, me, size, until) if rank == 0 else _come(store, me, rank, until)


def _invite(store: Store, token: str, size: int, until: float) -> str:
    store.set("siamscope/token", token)
    missing = {str(rank): f"siamscope/{token}/here/{rank}" for rank in range(1, size)}
    here: dict[str, str] = {}
    while missing:
        for rank in [rank for rank, key in missing.items() if store.check([key])]:
            here[rank] = store.get(missing.pop(rank)).decode()
        if missing:
            _wait(until, f"rank {', '.join(list(missing)[:8])} did not come to the start")
    store.set(f"siamscope/{token}/met", json.dumps(here))
    return token


def _come(store: Store, me: str, rank: int, until: float) -> str:
    token = ""
    while True:
        latest = store.get("siamscope/token").decode() if store.check(["siamscope/token"]) else ""
        if latest != token:  # what an earlier rank 0 has left, or this start's
            token = latest
            store.set(f"siamscope/{token}/here/{rank}", me)
        elif token and store.check([f"siamscope/{token}/met"]) and _met(store, token).get(str(rank)) == me:
            return token
        _wait(until, "rank 0 did not come to the start, or waits for others in vain")


def _met(store: Store, token: str) -> dict[str, str]:
    found: dict[str, str] = json.loads(store.get(f"siamscope/{token}/met"))
    return found


def _wait(until: float, failure: str) -> None:
    if time.monotonic() > until:
        raise TimeoutError(failure)
    time.sleep(PAUSE)
