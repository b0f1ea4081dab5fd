"""Time of k-NN, linear probe and spectrum on random features, beside a peer's or the obvious way of doing each.

    python benchmarks/evaluation.py [--bank 50000] [--queries 10000] [--dim 512] [--rounds 3] [--threads 1]
                                    [--only knn probe] [--out evaluation.json]

Processor time, so that waiting for other programs does not count, and wall time; both ways in turns, `rounds` times,
and ratios from the medians of this one run. The other ways:

- k-NN: lightly 1.6.0's `knn_predict` (lightly/utils/benchmarking/knn.py, MIT), as it stands, with its defaults k = 200
  and temperature 0.1 and batches of 256; and one pass with torch.topk and one-hot votes for each of four k. Where the
  predictions differ, the votes in float64 say who is right.
- probe: scikit-learn's LogisticRegression (lbfgs) over the same penalties, C = 1 / (n l2), each started from the one
  before, the strongest first, on the same standardised features in float32, with tol = 1e-4 and at most 1,000
  iterations. Once, since it takes minutes; for a spectrum that decays like 1/i and one that decays like i^-1/4.
- spectrum: the singular value decomposition of the centred matrix.
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


Time = tuple[float, float]


def seconds(run: Callable[[], Any]) -> tuple[float, Any]:
    (used, _), result = timed(run)
    return used, result


def timed(run: Callable[[], Any]) -> tuple[Time, Any]:
    """Processor and wall time, and what comes out."""
    used, start = time.process_time(), time.perf_counter()
    result = run()
    return (time.process_time() - used, time.perf_counter() - start), result


def problem(n: int, d: int, seed: int, decay: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features like an encoder's: a decaying spectrum, an offset, classes that overlap."""
    shared = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=shared) * torch.arange(1, d + 1) ** -decay
    centres = torch.randn(CLASSES, d, generator=shared) * 0.1
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(CLASSES, (n,), generator=g)
    return (centres[y] + torch.randn(n, d, generator=g)) @ mixing.T + 1, y


def lightly_predict(
    feature: torch.Tensor, feature_bank: torch.Tensor, feature_labels: torch.Tensor, num_classes: int
) -> torch.Tensor:
    """lightly 1.6.0's knn_predict with its defaults knn_k = 200 and knn_t = 0.1; `feature_bank` is (d, N)."""
    similarity = torch.mm(feature, feature_bank)
    weight, indices = similarity.topk(k=200, dim=-1)
    labels = torch.gather(feature_labels.expand(feature.size(0), -1), dim=-1, index=indices)
    weight = (weight / 0.1).exp()
    one_hot_label = torch.zeros(feature.size(0) * 200, num_classes)
    one_hot_label = one_hot_label.scatter(dim=-1, index=labels.view(-1, 1), value=1.0)
    scores = torch.sum(one_hot_label.view(feature.size(0), -1, num_classes) * weight.unsqueeze(dim=-1), dim=1)
    return scores.argsort(dim=-1, descending=True)


def lightly_knn(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    columns, queries = normalize(bank).T.contiguous(), normalize(queries)
    return torch.cat([lightly_predict(part, columns, labels, CLASSES)[:, 0] for part in queries.split(256)])


def exact_votes(bank: torch.Tensor, labels: torch.Tensor, query: torch.Tensor) -> torch.Tensor:
    """Votes (C,) of the 200 nearest in float64."""
    values, nearest = (normalize(bank.double()) @ normalize(query.double(), dim=0)).topk(200)
    return torch.zeros(CLASSES, dtype=torch.float64).scatter_add_(0, labels[nearest], (values / 0.1).exp())


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


def time_knn(bank: Any, queries: Any, rounds: int) -> dict[str, Any]:
    ways: dict[str, Callable[[], Any]] = {
        "siamscope, k = 200": lambda: knn(*bank, *queries, ks=(200,), temperature=0.1, return_predictions=True),
        "lightly, k = 200": lambda: lightly_knn(*bank, queries[0]),
        "siamscope, four k": lambda: knn(*bank, *queries, ks=KS, temperature=0.1, return_predictions=True),
        "plain, four k": lambda: plain_knn(*bank, queries[0]),
    }
    results, times = in_turns(ways, rounds)
    ours, theirs = results["siamscope, k = 200"].predictions[200], results["lightly, k = 200"]
    unlike = (ours != theirs).nonzero()[:, 0].tolist()
    right = {query: int(exact_votes(*bank, queries[0][query]).argmax()) for query in unlike}
    plain, several = results["plain, four k"], results["siamscope, four k"].predictions
    return {
        "times": times,
        "speedup_over_lightly": ratios(times, "lightly, k = 200", "siamscope, k = 200"),
        "speedup_over_plain": ratios(times, "plain, four k", "siamscope, four k"),
        "predictions_unlike_lightly": len(unlike),
        "of_those_siamscope_as_in_float64": sum(int(ours[query]) == label for query, label in right.items()),
        "of_those_lightly_as_in_float64": sum(int(theirs[query]) == label for query, label in right.items()),
        "predictions_unlike_plain": {k: int((several[k] != plain[k]).sum()) for k in KS},
    }


def in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Every way `rounds` times, one after the other: the last results, and all processor and wall times."""
    results, times = {}, {name: {"cpu": [], "wall": []} for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            (used, wall), results[name] = timed(run)
            times[name]["cpu"].append(round(used, 3))
            times[name]["wall"].append(round(wall, 3))
    return results, times


def ratios(times: dict[str, Any], slow: str, fast: str) -> dict[str, float]:
    return {kind: float(np.median(times[slow][kind]) / np.median(times[fast][kind])) for kind in ("cpu", "wall")}


def time_probe(train: Any, val: Any, test: Any, rounds: int) -> dict[str, Any]:
    found, times = in_turns({"siamscope": lambda: linear_probe(*train, *val, *test)}, rounds)
    result = found["siamscope"]
    out = {"times": times, "top1": result.top1, "l2": result.l2, "converged": result.converged}
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        return out
    mean, scale = train[0].mean(0), train[0].std(0, correction=0)
    x, held, judged = (((part[0] - mean) / scale).numpy() for part in (train, val, test))
    y, by_validation, by_test, iterations = train[1].numpy(), [], [], []

    def plain() -> None:
        model = LogisticRegression(max_iter=1000, tol=1e-4, warm_start=True)
        for l2 in L2_GRID:
            model.set_params(C=1 / (len(x) * l2)).fit(x, y)
            by_validation.append(float((model.predict(held) == val[1].numpy()).mean()))
            by_test.append(float((model.predict(judged) == test[1].numpy()).mean()))
            iterations.append(int(model.n_iter_.max()))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (used, wall), _ = timed(plain)
    times["scikit-learn"] = {"cpu": [round(used, 3)], "wall": [round(wall, 3)]}
    return out | {
        "speedup": ratios(times, "scikit-learn", "siamscope"),
        "scikit_learn_top1": by_test[int(np.argmax(by_validation))],
        "scikit_learn_best_top1_of_any_C": max(by_test),
        "scikit_learn_iterations": iterations,
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
    parser.add_argument("--rounds", type=int, default=3, help="times that every way is run")
    parser.add_argument("--threads", type=int, default=1, help="threads of both sides")
    parser.add_argument("--only", nargs="+", choices=("spectrum", "knn", "probe", "probe_flat"), help="parts to run")
    parser.add_argument("--out", type=Path, help="write JSON here as well")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    def parts(decay: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        sizes = (options.bank, max(100, options.queries // 2), options.queries)
        return [problem(size, options.dim, seed, decay) for size, seed in zip(sizes, (1, 3, 2), strict=True)]

    (bank, val, queries), rounds = parts(1.0), options.rounds
    sizes = {"bank": options.bank, "queries": options.queries, "dim": options.dim, "classes": CLASSES}
    result = {"machine": machine(), "sizes": sizes, "load": os.getloadavg(), "unit": "seconds"}
    for name, run in (
        ("spectrum", lambda: time_spectrum(bank[0])),
        ("knn", lambda: time_knn(bank, queries, rounds)),
        ("probe", lambda: time_probe(bank, val, queries, rounds)),
        ("probe_flat", lambda: time_probe(*parts(0.25), rounds)),
    ):
        if options.only and name not in options.only:
            continue
        result[name] = run()
        print(name, json.dumps(result[name], indent=1), flush=True)
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
