"""Run directories as `siamscope train` leaves them, with scores and accuracies of one's choice; nothing is trained."""

import json
from dataclasses import replace

from siamscope import recipe as recipes


def recipe(method="simsiam", width=1.0, lr=0.1, weight_decay=5e-4):
    base = recipes.for_method(method)
    return replace(
        base,
        network=replace(base.network, width=width),
        optim=replace(base.optim, lr=lr, weight_decay=weight_decay),
    )


def run(
    path, *, auc=0.8, loss=-0.9, linear=0.7, knn=0.6, validation=0.65, scores=None, data="abc", split="test", n=5000,
    d=64, health="healthy", labels=True, course=None, finished=True, viewed=0, **settings,
):  # fmt: skip
    """Write a run and return its path. scores: beside AUC.  course: monitor lines, instead of one at the end."""
    path.mkdir(parents=True)
    (path / "recipe.toml").write_text(recipes.to_toml(recipe(**settings)))
    last = {"kind": "monitor", "step": 100, "health": health, "feature_dim": d} | (
        {"knn": validation} if labels else {}
    )
    lines = [{"kind": "step", "step": step, "loss": loss + 0.5 * (step <= 50)} for step in range(1, 101)]
    text = "".join(json.dumps(line) + "\n" for line in [*lines, *(course or [last])])
    (path / "metrics.jsonl").write_text(text)
    (path / "environment.json").write_text(json.dumps({"data_fingerprint": data, "data": "images", "finished": "now"}))
    found = {"verdict": {"status": health}, "labels": labels, "split": split, "k": 20}
    if labels:
        found |= {"knn": {"trained": {"20": knn}, "untrained": {"20": 0.3}}}
        found |= (
            {"probe": {"trained": {"top1": linear}, "untrained": {"top1": 0.6}}}
            if linear is not None
            else {"probe": {}}
        )
    if auc is not None:
        found |= {"scores": {"auc_sigma": auc} | (scores or {}), "scored": {"n": n, "d": d}}
    if viewed:
        found["scored"]["views"] = {"images": viewed, "per_image": 8}
    if finished:
        (path / "evaluation.json").write_text(json.dumps(found))
    return path
