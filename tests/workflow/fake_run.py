"""Stands for `python -m siamscope train|resume` in the tests of the comparison: writes a run directory, or fails.

No imports but the standard library's, so that it starts at once. What it does depends on the recipe's method.
"""

import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

command, *words = sys.argv[1:]
options = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--recipe", "--out")}
run = Path(words[0] if command == "resume" else options["--out"])
with (run.parent / "started.txt").open("a") as stream:
    stream.write(f"{command}{' --overwrite' if '--overwrite' in words else ''} {os.environ['OMP_NUM_THREADS']}\n")
run.mkdir(parents=True, exist_ok=True)
if command == "train":
    shutil.copy(options["--recipe"], run / "recipe.toml")
method = run.parent.name.partition("-")[0]

if method == "dino" and "--overwrite" not in words:  # diverges at first
    print("a warning\nsiamscope train: the loss is nan at step 7", file=sys.stderr)
    sys.exit(3)
if method == "swav":
    os.kill(os.getpid(), signal.SIGKILL)
if method == "tico":
    raise RuntimeError("a defect")
if method == "mocov3" and command == "train":  # works until it is stopped

    def stop(number, frame):
        (run / "saved").touch()
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    (run / "ready").touch()
    time.sleep(30)
    sys.exit(1)

seed = int(run.name.removeprefix("seed-"))
knn = {"simclr": 0.5, "byol": 0.6}.get(method, 0.4) + 0.01 * seed + (0.1 if "momentum" in run.parent.name else 0)
lines = [{"kind": "step", "step": i, "loss": 1.0, "images_per_second": speed} for i, speed in enumerate((1, 90, 100))]
lines.append({"kind": "monitor", "step": 2, "auc": 0.7, "effective_rank": 9.0, "feature_auc": 0.8,
              "feature_effective_rank": 20.0})  # fmt: skip
evaluation = {
    "verdict": {"status": "healthy", "reasons": [], "advice": []}, "labels": True,
    "split": "test", "n_bank": 96, "n_queries": 32, "k": 20,
    "knn": {"trained": {"1": 0.9, "20": knn}, "untrained": {"20": 0.3 + 0.02 * seed}, "raw_pixels": {"20": 0.25}},
    "probe": {"trained": {"top1": knn + 0.1}},
}  # fmt: skip
(run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
(run / "evaluation.json").write_text(json.dumps(evaluation))
(run / "environment.json").write_text(json.dumps({"data_fingerprint": "abc", "finished": "now"}))
