"""How fast the learning dynamics are solved, against a loop over scipy's `solve_ivp`; whether the results are right.

    OMP_NUM_THREADS=1 python benchmarks/dynamics.py --threads 2

Million: (p, s) trajectories of decoupled modes from random starts, relative tolerance 1e-6, to convergence in two
meanings: `Steady`, at rest (|dy/dt| <= 1e-9 + 1e-6 |y|), and `Settled`, the verdict is certain. With parameters in
common, and with parameters of its own for each trajectory. The loop solves some of the same trajectories one by one
with the same condition as a terminal event, for each of scipy's explicit methods and LSODA, its right-hand side written
for two numbers and not for arrays; the fastest counts. Runs that form a ratio take turns; medians over the rounds. Wall
and processor time are both given, since a shared machine spoils the first.
Checks: ends against closed forms and against `solve_ivp` at 1e-10; a basin map against scipy's runs to rest, on pixels
half of which lie at the boundary; a matrix flow against a tighter solution.
Predictors: one step of DirectPred, which takes an eigendecomposition, and of DirectCopy, which does not.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp

from siamscope.dynamics import Adaptive, MatrixFlow, Modes, Settled, Steady, checks, solve, solve_many
from siamscope.dynamics.solve import Stop
from siamscope.networks.predictors import SetPredictor
from siamscope.workflow import environment

METHODS = ("RK45", "DOP853", "LSODA")
RTOL, ATOL, LONG = 1e-6, 1e-9, 1e6
STOPS: dict[str, Stop] = {"Steady": Steady(), "Settled": Settled()}
Times = dict[str, float]


def timed(work: Callable[[], Any]) -> tuple[Any, Times]:
    wall, processor = time.perf_counter(), time.process_time()
    result = work()
    return result, {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}


def rounded(value: Any) -> Any:
    """Numbers of a report to four digits."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def medians(rounds: list[Times]) -> Times:
    return {name: statistics.median(times[name] for times in rounds) for name in rounds[0]}


def starts(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.stack([rng.uniform(-0.5, 1.0, n), rng.uniform(0.01, 0.5, n)], axis=1)


def systems(rng: np.random.Generator, n: int) -> dict[str, Modes]:
    own = Modes(
        alpha_p=rng.uniform(0.25, 4, n), eta=rng.uniform(0.005, 0.2, n), sigma2=rng.uniform(0, 1, n),
        tau=rng.uniform(0.5, 1, n),
    )  # fmt: skip
    return {"common": Modes(1.0, 0.04, 0.1), "own": own}


# -- scipy, one by one -------------------------------------------------------------------------------------------------


def member(modes: Modes, i: int) -> Modes:
    """The parameters of trajectory i."""
    names = ("alpha_p", "eta", "sigma2", "tau")
    return Modes(**{name: float(value[i] if np.ndim(value := getattr(modes, name)) else value) for name in names})


def loop(modes: Modes, y0: np.ndarray, stop: str, method: str, rtol: float = RTOL, atol: float = ATOL) -> np.ndarray:
    """Ends of scipy's trajectories; (p, s) as plain numbers, which suits scipy best."""
    return np.array([one(member(modes, i), y, stop, method, rtol, atol) for i, y in enumerate(y0)])


def one(modes: Modes, y0: np.ndarray, stop: str, method: str, rtol: float, atol: float) -> np.ndarray:
    alpha_p, eta, total, tau = (float(x) for x in (modes.alpha_p, modes.eta, modes.total, modes.constant_tau))

    def rhs(t: float, y: np.ndarray) -> tuple[float, float]:
        p, s = y.tolist()
        gain = tau - total * p
        return alpha_p * gain * s - eta * p, 2 * s * (p * gain - eta)

    def steady(t: float, y: np.ndarray) -> float:
        dp, ds = rhs(t, y)
        return max(abs(dp) - 1e-9 - 1e-6 * abs(y[0]), abs(ds) - 1e-9 - 1e-6 * abs(y[1]))

    low, high = (float(root) for root in modes.roots())
    corner = low**2 / alpha_p

    def settled(t: float, y: np.ndarray) -> float:
        p, s = y.tolist()
        dead = not low > 0 or (p <= low and s <= corner) or s <= 0
        alive = p >= low and s >= corner and (p <= high or s >= p * p / alpha_p)
        return -1.0 if dead or alive else 1.0

    event = {"Steady": steady, "Settled": settled}[stop]
    if event(0.0, y0) <= 0:
        return y0
    event.terminal = True  # type: ignore[attr-defined]
    return np.asarray(solve_ivp(rhs, (0, LONG), y0, method, rtol=rtol, atol=atol, events=event).y[:, -1])


# -- the parts ---------------------------------------------------------------------------------------------------------


def million(args: argparse.Namespace, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows = []
    y0 = starts(rng, args.trajectories)
    some = rng.choice(args.trajectories, args.sample, replace=False)
    for kind, modes in systems(rng, args.trajectories).items():
        for stop in STOPS:
            ours: list[Times] = []
            theirs: dict[str, list[Times]] = {method: [] for method in METHODS}
            for share in np.array_split(some, args.rounds):
                run, times = timed(lambda m=modes, s=stop: many(m, y0, s, args.threads))
                ours.append(times)
                for method in METHODS:
                    few = modes.take(share)
                    _, times = timed(lambda f=few, s=share, st=stop, m=method: loop(f, y0[s], st, m))
                    theirs[method].append({name: value / len(share) for name, value in times.items()})
            row = {"parameters": kind, "converged": stop, "ended": run.count("stopped")} | compared(
                ours, theirs, args.trajectories
            )
            rows.append(row | {"steps_each": float(run.steps.mean())} | right(modes, y0, stop, run.y, some))
            print(rounded(rows[-1]), flush=True)
    return rows


def many(modes: Modes, y0: np.ndarray, stop: str, threads: int) -> Any:
    return solve_many(modes, y0, LONG, rtol=RTOL, atol=ATOL, stop=STOPS[stop], threads=threads)


def compared(ours: list[Times], theirs: dict[str, list[Times]], n: int) -> dict[str, Any]:
    """Seconds for all n, and scipy's over ours, round by round."""
    each = {method: medians(rounds) for method, rounds in theirs.items()}
    best = min(each, key=lambda method: each[method]["processor"])
    ratios = {
        name: statistics.median(n * b[name] / a[name] for a, b in zip(ours, theirs[best], strict=True))
        for name in ("wall", "processor")
    }
    return {
        "seconds": medians(ours), "scipy_method": best, "ratio": ratios,
        "scipy_seconds": {method: {name: n * value for name, value in times.items()} for method, times in each.items()},
    }  # fmt: skip


def right(modes: Modes, y0: np.ndarray, stop: str, y: np.ndarray, some: np.ndarray) -> dict[str, Any]:
    """Same fate as scipy at 1e-10 run to rest. At rest: also the distance from (p_+, p_+^2 / alpha_p) or (0, 0)."""
    few = modes.take(some)
    want = loop(few, y0[some], "Steady", "LSODA", 1e-10, 1e-12)[:, 1] > 1e-3
    high = few.roots()[1]
    verdict = few.verdict(y[some, 0], y[some, 1]) > 0
    got = verdict if stop == "Settled" else y[some, 1] > 1e-3
    out: dict[str, Any] = {"sample": len(some), "same_fate": int((got == want).sum()), "learn": int(want.sum())}
    if stop == "Steady":
        rest = np.where(got[:, None], np.stack([high, high**2 / few.alpha_p], axis=-1), 0.0)
        out["largest_distance_from_rest"] = float(np.abs(y[some] - rest).max())
    return out


def basin(args: argparse.Namespace, rng: np.random.Generator) -> dict[str, Any]:
    """A map of verdicts, and scipy's answer for pixels, half of them anywhere and half beside the boundary."""
    modes, side = Modes(1.0, 0.04, 0.1), 512
    p, s = np.meshgrid(np.linspace(-0.5, 1.5, side), np.linspace(0, 1, side))
    y0 = np.stack([p.ravel(), s.ravel()], axis=1)
    rounds = []
    for _ in range(args.rounds):
        run, times = timed(lambda: many(modes, y0, "Settled", args.threads))
        rounds.append(times)
    learns = (modes.verdict(run["p"], run["s"]) > 0).reshape(side, side)
    edge = np.flatnonzero(np.pad(learns[1:] != learns[:-1], ((0, 1), (0, 0))).ravel())
    pixels = np.concatenate([rng.choice(side**2, args.sample // 2), rng.choice(edge, args.sample // 2)])
    want = loop(modes, y0[pixels], "Steady", "LSODA", 1e-10, 1e-12)[:, 1] > 1e-3
    same = int((learns.ravel()[pixels] == want).sum())
    return {"side": side, "seconds": medians(rounds), "settled": run.count("stopped"), "learn": float(learns.mean()),
            "sample": len(pixels), "same_as_scipy": same}  # fmt: skip


def matrix(args: argparse.Namespace, rng: np.random.Generator) -> dict[str, Any]:
    n1, n2 = 64, 32
    a, b = rng.standard_normal((2, n1, n1)) / np.sqrt(n1)
    flow = MatrixFlow(a @ a.T, 0.3 * b @ b.T, n2, eta=0.02, beta=0.4)
    w = rng.standard_normal((n2, n1)) / np.sqrt(n1)
    start = {"W": w, "W_p": rng.standard_normal((n2, n2)) / np.sqrt(n2), "W_a": w}
    rounds = []
    for _ in range(args.rounds):
        got, times = timed(lambda: solve(flow, start, 100.0, save="ends", solver=Adaptive(rtol=1e-8, atol=1e-10)))
        rounds.append(times)
    tight = solve(flow, start, 100.0, save="ends", solver=Adaptive(rtol=1e-12, atol=1e-14)).final
    errors = {name: float(np.abs(got.final[name] - part).max()) for name, part in tight.items()}
    drift = flow.balance(got.y[-1]) - np.exp(-2 * float(flow.eta) * 100) * flow.balance(got.y[0])
    return {"n1": n1, "n2": n2, "t": 100, "rtol": 1e-8, "status": got.status, "steps": got.stats.steps,
            "seconds": medians(rounds), "largest_error": errors, "largest_entry": float(np.abs(tight["W"]).max()),
            "theorem_1_residual": float(np.abs(drift).max())}  # fmt: skip


def suite() -> dict[str, Any]:
    rows, times = timed(lambda: checks.run())
    return {"claims": len(rows), "passed": sum(row.passed for row in rows), "configurations": 5, "seconds": times}


def predictors(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds to set W_p from two views of 256 samples, statistics and all; the two kinds take turns."""
    rows = []
    for width in (64, 256, 512, 1024, 2048):
        torch.manual_seed(0)
        views = [torch.randn(256, width) for _ in range(2)]
        kinds = {kind: SetPredictor(width, kind) for kind in ("directpred", "directcopy")}
        rounds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for turn in range(args.rounds + 1):
            for kind, predictor in kinds.items():
                _, times = timed(lambda p=predictor, v=views: p.prepare(v, v))
                rounds[kind] += [1e3 * times["processor"]] if turn else []
        each = {kind: statistics.median(values) for kind, values in rounds.items()}
        f = kinds["directcopy"].correlation
        exact = float(torch.linalg.eigvalsh(f.double())[-1])
        copy = kinds["directcopy"]
        used = float(f.double().trace()) / (
            float(copy.matrix.double().trace()) - width * copy.eps
        )  # W_p = F / |F| + eps I
        rows.append({"width": width, "processor_ms": each, "ratio": each["directpred"] / each["directcopy"],
                     "norm_relative_error": abs(used / exact - 1)})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/dynamics.json"))
    parser.add_argument("--trajectories", type=int, default=1_000_000)
    parser.add_argument("--sample", type=int, default=300, help="trajectories that scipy solves, over all rounds")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(args.seed)
    report: dict[str, Any] = {
        "command": " ".join(["python", *sys.argv]), "machine": environment.describe(torch.device("cpu")),
        "date": environment.now(), "seed": args.seed, "threads": args.threads, "rounds": args.rounds,
        "load_average": os.getloadavg()[0],  # wall times mean little beside other work
    }  # fmt: skip
    parts: dict[str, Callable[[], Any]] = {
        "million": lambda: million(args, rng), "basin": lambda: basin(args, rng), "matrix": lambda: matrix(args, rng),
        "checks": suite, "predictors": lambda: predictors(args),
    }  # fmt: skip
    for name, part in parts.items():
        report[name] = part()
        if name != "million":
            print(name, rounded(report[name]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(rounded(report), indent=1) + "\n")


if __name__ == "__main__":
    main()
