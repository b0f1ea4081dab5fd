"""What AUC and loss say of the accuracy within a study: least squares on its own runs, with the baselines beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from siamscope.collapse import CollapseError
from siamscope.collapse.forecast_quality import compare
from siamscope.collapse.least_squares import solve
from siamscope.workflow.study.collect import Record, value
from siamscope.workflow.study.verdicts import labelled

SETS = ((), ("loss",), ("auc_sigma",), ("auc_sigma", "loss"))


def of(records: Sequence[Record]) -> dict[str, Any]:
    """The line accuracy = intercept + slope AUC, and how sets of scores forecast; empty without labels or enough runs.

    Runs of the most frequent number of features, without controls; groups are the models.
    """
    name = labelled(records)
    done = [record for record in records if record["status"] == "finished" and not record["control"]]
    dimensions = [record["d"] for record in done]
    most = max(set(dimensions), key=dimensions.count) if done else 0
    needed = ("auc_sigma", "loss", name)
    rows = [
        record for record in done
        if name and record["d"] == most and all(value(record, key) is not None for key in needed)
    ]  # fmt: skip
    if not rows:
        return {}
    columns = {
        key: np.array([value(record, key) for record in rows], dtype=np.float64) for key in ("auc_sigma", "loss")
    }
    target = np.array([value(record, name) for record in rows], dtype=np.float64)
    try:
        line = solve(columns["auc_sigma"][:, None], target, names=("auc_sigma",))
    except CollapseError:  # too few runs, or an AUC that does not vary
        return {}
    slope = float(line.weights[0] / line.scale[0])
    groups = [record["model"] for record in rows]
    several = groups if len(set(groups)) > 1 else None
    return {
        "accuracy": name,
        "d": most,
        "line": {"intercept": line.intercept - slope * float(line.mean[0]), "slope": slope},
        "sets": [asdict(found) | {"name": found.name} for found in compare(columns, target, SETS, several)],
    }
