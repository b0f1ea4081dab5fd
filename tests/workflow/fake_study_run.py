"""Stands for `python -m siamscope train|resume` in the tests of studies: writes runs whose figures follow a rule.

No imports but the standard library's, so that it starts at once. FAKE_STUDY says what goes wrong: `diverge=LINE` ends
that line's runs with a loss that is not a number, `wait=LINE` works until it is stopped, `unlabelled` leaves the labels
out, `reversed` turns the rule round, `otherdata` names other images.
"""

import json
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
with (run.parent / "started.txt").open("a") as stream:
    stream.write(f"{command}\n")
run.mkdir(parents=True, exist_ok=True)
if command == "train":
    shutil.copy(options["--recipe"], run / "recipe.toml")
told = dict(word.partition("=")[::2] for word in os.environ.get("FAKE_STUDY", "").split())
line = run.parent.name
if told.get("diverge") == line:
    print("siamscope train: the loss is nan at step 7", file=sys.stderr)
    sys.exit(3)
if told.get("wait") == line and command == "train":

    def stop(number, frame):
        sys.exit(128 + number)

    signal.signal(signal.SIGINT, stop)
    (run / "ready").touch()
    time.sleep(30)
    sys.exit(1)

recipe = tomllib.loads((run / "recipe.toml").read_text())
order, seed = recipe["order"], recipe["train"]["seed"]
share = order["subset"] if order["name"] == "last" else 1.0
effect = 0.1 * share - 0.05 * recipe["network"]["width"]
effect -= {"cumulative": 0.04, "hybrid": 0.02}.get(order["name"], 0.0)
effect -= 0.03 if recipe["method"]["target"] in ("momentum", "teacher") else 0.0
auc = 0.75 + (-effect if "reversed" in told else effect) + 0.001 * seed
accuracy = round(1.5 - auc, 6)
sigma = [2.0 * 0.5**k for k in range(4)]
steps = [{"kind": "step", "step": i + 1, "loss": -0.5} for i in range(20)]
steps.append({"kind": "monitor", "step": 20, "spectrum_features": sigma})
evaluation = {
    "verdict": {"status": "healthy", "reasons": [], "advice": []}, "labels": "unlabelled" not in told, "k": 20,
    "split": "test", "scores": {"auc_sigma": auc, "effective_rank": 9.0},
    "scores_untrained": {"auc_sigma": 0.9}, "scored": {"n": 100, "d": recipe["network"]["features"] or 64},
}  # fmt: skip
if recipe["network"]["width"] >= 1:  # a run of a version that keeps the spectrum of the judgement
    evaluation["spectrum"] = [3.0, 2.0, 1.0]
if evaluation["labels"]:
    evaluation["knn"] = {"trained": {"20": accuracy}, "untrained": {"20": 0.3}, "raw_pixels": {"20": 0.2}}
    evaluation["probe"] = {name: {"top1": top} for name, top in (("trained", accuracy + 0.1), ("untrained", 0.4))}
(run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in steps))
(run / "evaluation.json").write_text(json.dumps(evaluation))
images = "other" if "otherdata" in told else "abc"
(run / "environment.json").write_text(json.dumps({"data_fingerprint": images, "finished": "now"}))
