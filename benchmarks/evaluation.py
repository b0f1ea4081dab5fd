"""CPU time of k-NN, linear probe and spectrum on random features, beside the obvious way of doing each.

    python benchmarks/evaluation.py [--bank 50000] [--queries 10000] [--dim 512] [--out evaluation.json]

Process time, so that waiting for other programs does not count; for one thread throughout, set OMP_NUM_THREADS=1.
Every ratio is taken within this one run. The obvious ways: for k-NN, one pass for each of the four k, with torch.topk
and one-hot votes; for the probe, scikit-learn's LogisticRegression from zero for each penalty (on a tenth of the data,
both sides, if scikit-learn is there); for the spectrum, the singular value decomposition of the centred matrix.
"""

import argparse
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize, one_hot

from siamscope.collapse import auc, effective_rank, embedding_std, spectrum
from siamscope.evaluation import L2_GRID, knn, linear_probe

KS = (1, 5, 20, 200)
CLASSES = 10


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    result = run()
    return time.process_time() - start, result


def problem(n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features like an encoder's: a decaying spectrum, an offset, classes that overlap."""
    shared = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=shared) * torch.arange(1, d + 1) ** -1.0
    centres = torch.randn(CLASSES, d, generator=shared) * 0.1
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=g)
    return (centres[y] + torch.randn(n, d, generator=g)) @ mixing.T + 1, y


def plain_knn(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> dict[int, torch.Tensor]:
    bank, queries = normalize(bank), normalize(queries)
    out: dict[int, torch.Tensor] = {}
    for k in KS:
        parts = []
        for chunk in queries.split(256):
            values, nearest = (chunk @ bank.T).topk(k, dim=1)
            votes = one_hot(labels[nearest], CLASSES) * (values / 0.1).exp()[:, :, None]
            parts.append(votes.sum(1).argmax(1))
        out[k] = torch.cat(parts)
    return out


def time_knn(bank: Any, queries: Any) -> dict[str, Any]:
    ours, result = seconds(lambda: knn(*bank, *queries, ks=KS, return_predictions=True))
    plain, expected = seconds(lambda: plain_knn(*bank, queries[0]))
    unlike = {k: float((result.predictions[k] != expected[k]).double().mean()) for k in KS}
    return {"seconds": ours, "plain_seconds": plain, "speedup": plain / ours, "predictions_that_differ": unlike}


def time_probe(train: Any, val: Any, test: Any) -> dict[str, Any]:
    ours, result = seconds(lambda: linear_probe(*train, *val, *test))
    found = {"seconds": ours, "top1": result.top1, "l2": result.l2, "converged": result.converged}
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return found
    n = len(train[0]) // 10
    part = (train[0][:n], train[1][:n])
    ours, result = seconds(lambda: linear_probe(*part, *val, *test))
    x = part[0].double()
    x = ((x - x.mean(0)) / x.std(0, correction=0)).numpy()

    def plain() -> bool:
        fits = [LogisticRegression(C=1 / (n * l2), max_iter=2000, tol=1e-4).fit(x, part[1].numpy()) for l2 in L2_GRID]
        return all(int(f.n_iter_.max()) < 2000 for f in fits)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, done = seconds(plain)
    tenth = {"n_train": n, "seconds": ours, "converged": result.converged}
    return found | {
        "tenth": tenth | {"scikit_learn_seconds": theirs, "scikit_learn_converged": done, "speedup": theirs / ours}
    }


def time_spectrum(x: torch.Tensor) -> dict[str, Any]:
    ours, found = seconds(lambda: spectrum(x))
    scores, values = seconds(
        lambda: (auc(found.singular_values), effective_rank(found.singular_values), embedding_std(x))
    )

    def svd() -> np.ndarray:
        y = x.double().numpy()
        return np.linalg.svd(y - y.mean(0), compute_uv=False)

    plain, sigma = seconds(svd)
    return {
        "seconds": ours,
        "scores_seconds": scores,
        "svd_seconds": plain,
        "speedup": plain / ours,
        "auc": values[0],
        "auc_error": abs(auc(sigma) - values[0]),
    }


def machine() -> dict[str, Any]:
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads_used": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=int, default=50_000, help="bank / training samples")
    parser.add_argument("--queries", type=int, default=10_000, help="queries / test samples")
    parser.add_argument("--dim", type=int, default=512, help="feature dimensions")
    parser.add_argument("--out", type=Path, help="write JSON here as well")
    options = parser.parse_args()
    torch.set_num_threads(1)
    bank, queries = problem(options.bank, options.dim, 1), problem(options.queries, options.dim, 2)
    val = problem(max(100, options.queries // 2), options.dim, 3)
    sizes = {"bank": options.bank, "queries": options.queries, "dim": options.dim, "classes": CLASSES}
    result = {"machine": machine(), "sizes": sizes, "unit": "seconds of CPU time"}
    for name, run in (
        ("spectrum", lambda: time_spectrum(bank[0])),
        ("knn", lambda: time_knn(bank, queries)),
        ("probe", lambda: time_probe(bank, val, queries)),
    ):
        result[name] = run()
        print(name, json.dumps(result[name], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
