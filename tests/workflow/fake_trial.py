"""Stands for `python -m siamscope train|resume` in the tests of the sweep: a run whose scores follow from its recipe.

AUC is least, and accuracy greatest, at a rate of 0.1. A decay above 0.01 collapses: at once by the alarm (exit code 4)
above 0.1, else only in what is measured, and then it waits to be ended. $FAKE_TRIAL changes more; $FAKE_GATE is a file
that it waits for. No imports but the standard library's.
"""

import json
import math
import os
import shutil
import signal
import sys
import time
import tomllib
from pathlib import Path

command, *words = sys.argv[1:]
options = {word: words[i + 1] for i, word in enumerate(words[:-1]) if word in ("--recipe", "--out")}
run = Path(words[0] if command == "resume" else options["--out"])
run.mkdir(parents=True, exist_ok=True)
with (run.parent / "started.txt").open("a") as stream:
    stream.write(f"{command}\n")
if command == "train":
    shutil.copy(options["--recipe"], run / "recipe.toml")
recipe = tomllib.loads((run / "recipe.toml").read_text())
rate, decay = recipe["optim"]["lr"], recipe["optim"]["weight_decay"]
alarm = recipe["monitor"]["on_collapse"]
mode = os.environ.get("FAKE_TRIAL", "")
far = abs(math.log10(rate / 0.1))
auc, accuracy = 0.6 + 0.1 * far, 0.9 - 0.2 * far


def stop(number, frame):
    (run / "saved").touch()
    sys.exit(128 + number)


signal.signal(signal.SIGINT, stop)
signal.signal(signal.SIGTERM, stop)
if mode == "broken":
    print("siamscope train: nothing works here", file=sys.stderr)
    sys.exit(2)
if decay > 0.1 and alarm == "stop":
    print("siamscope train: the alarm: complete collapse at step 60", file=sys.stderr)
    sys.exit(4)
if rate > 1:
    print("siamscope train: the loss is nan at step 7", file=sys.stderr)
    sys.exit(3)

gate, limit = os.environ.get("FAKE_GATE", ""), time.monotonic() + 300
while gate and not Path(gate).exists() and time.monotonic() < limit:
    time.sleep(0.02)

collapses = decay > 0.01
with (run / "metrics.jsonl").open("a") as stream:
    for step in (0, 10, 20, 30, 40):
        line = {"kind": "monitor", "step": step, "loss": -0.5, "feature_auc": 0.9 - 0.3 * step / 40 * (1 - far / 3),
                "feature_effective_rank": 5.0, "feature_dim": 16, "knn": accuracy - 0.05,
                "health": "collapse" if collapses and step >= 20 else "healthy",
                "reasons": ["the rank is 1.2"] if collapses else []}  # fmt: skip
        stream.write(json.dumps({"kind": "step", "step": step, "loss": -0.5}) + "\n" + json.dumps(line) + "\n")
        stream.flush()
        if (mode == "slow" and command == "train") or (collapses and step == 40 and alarm == "stop"):
            (run / "ready").touch()
            time.sleep(30)
        if mode == "linger" and step == 20 and far > 1:
            time.sleep(30)
evaluation = {
    "verdict": {"status": "collapse" if collapses else "healthy", "reasons": [], "advice": []}, "labels": True,
    "split": "test", "n_bank": 96, "n_queries": 32, "k": 20, "scored": {"n": 320, "d": 16},
    "scores": {"auc_sigma": auc, "effective_rank": 10 - far, "rankme": 9 - far, "alpha_req": 1 + far},
    "knn": {"trained": {"20": accuracy}, "untrained": {"20": 0.3}, "raw_pixels": {"20": 0.25}}, "probe": {},
}  # fmt: skip
if mode == "unlabelled":
    evaluation = {key: value for key, value in evaluation.items() if key not in ("knn", "probe")} | {"labels": False}
(run / "evaluation.json").write_text(json.dumps(evaluation))
(run / "environment.json").write_text(json.dumps({"data_fingerprint": "abc", "data": "shapes", "finished": "now"}))
