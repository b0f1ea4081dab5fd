"""scikit-learn's logistic regression on the probe's problem, searched as well as it can be."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from peers_.clock import timed

PENALTIES = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)  # siamscope's grid; C = 1 / (N l2)


class Side:
    """The tasks; see `peers_.worker`."""

    def __init__(self, settings: dict[str, Any]) -> None:
        del settings
        warnings.simplefilter("ignore")  # that it did not converge is in the answer

    def probe(self, features: str, most: int, tolerance: float) -> dict[str, Any]:
        """Best penalty by validation accuracy: float32 (the faster), each fit started from the one before."""
        with np.load(features) as found:
            data = {name: found[name] for name in found.files}

        def search() -> tuple[list[tuple[float, float, int]], float]:
            mean, std = data["x_train"].mean(0), data["x_train"].std(0)
            x = {split: (data[f"x_{split}"] - mean) / std for split in ("train", "val", "test")}
            model = LogisticRegression(max_iter=most, tol=tolerance, warm_start=True)
            rows, best, test = [], -1.0, 0.0
            for penalty in PENALTIES:
                model.set_params(C=1 / (len(x["train"]) * penalty)).fit(x["train"], data["y_train"])
                score = float(model.score(x["val"], data["y_val"]))
                rows.append((penalty, score, int(model.n_iter_.max())))
                if score > best:
                    best, test = score, float(model.score(x["test"], data["y_test"]))
            return rows, test

        taken, (rows, test) = timed(search, "cpu")
        best = max(rows, key=lambda row: row[1])[0]
        within = all(n < most for _, _, n in rows)
        return taken | {"top1": test, "l2": best, "validation": rows, "converged": within}
