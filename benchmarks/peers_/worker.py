"""A process of one library that does what it is told, a line of JSON at a time.

As a module: `Worker`, the end that tells. As a script (`python worker.py MODULE SETTINGS`): the end that does, which
imports `peers_.of_MODULE` and calls the methods of its class `Side`.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
UNSET = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONPATH")  # a kernel forced on numpy would slow scikit-learn


class WorkerError(RuntimeError):
    """A worker failed; the message ends with what it last wrote."""


def environment(threads: int) -> dict[str, str]:
    """The variables of a worker: its threads, and nothing that holds a library back."""
    kept = {key: value for key, value in os.environ.items() if key not in UNSET}
    return kept | dict.fromkeys(THREADS, str(threads)) | {"CUDA_VISIBLE_DEVICES": kept.get("CUDA_VISIBLE_DEVICES", "0")}


class Worker:
    """A running process of a library; close it, or use it in `with`. Its chatter goes to `log`."""

    def __init__(self, python: Path, module: str, settings: dict[str, Any], log: Path) -> None:
        self.log = log
        self._compiled = tempfile.TemporaryDirectory()  # so that nothing is compiled before its time is taken
        self._log = log.open("ab")
        command = [str(python), str(HERE / "worker.py"), module, json.dumps(settings)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, cwd=log.parent,
            env=environment(int(settings.get("threads", 1))) | {"TORCHINDUCTOR_CACHE_DIR": self._compiled.name},
        )  # fmt: skip

    def __call__(self, task: str, **arguments: Any) -> Any:
        """Do `task` and wait for what it gives. Raises WorkerError."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            self.process.stdin.write(json.dumps([task, arguments]) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._log.flush()
            tail = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-4:]
            raise WorkerError(f"{task} failed: {' | '.join(tail)}")
        return json.loads(line)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait(timeout=60)
        self._log.close()
        self._compiled.cleanup()


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries may print: not among the answers
    sys.path[0] = str(HERE.parent)
    side = importlib.import_module(f"peers_.of_{sys.argv[1]}").Side(json.loads(sys.argv[2]))
    for line in sys.stdin:
        task, arguments = json.loads(line)
        print(json.dumps(getattr(side, task)(**arguments)), file=answers, flush=True)


if __name__ == "__main__":
    main()
