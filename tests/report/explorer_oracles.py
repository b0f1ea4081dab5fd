"""What the explorer's numbers are held against: siamscope.dynamics. And a way to run its model without the page."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from siamscope.dynamics import Adaptive, EMAModes, MatrixFlow, Modes, ScalarNetwork, SetModes, SetRule, Settled, solve
from siamscope.dynamics.vectorised import solve_many
from siamscope.report.explorer.page import source

MODEL = ("solver.js", "model.js", "basin.js")
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
)
NODE = shutil.which("node")
FINE = Adaptive(rtol=1e-11, atol=1e-14)
DEFAULTS = {"alpha_p": 1.0, "eta": 0.12, "sigma2": 0.1, "target": "fixed", "tau": 1.0, "beta": 0.1}
DEFAULTS |= {"predictor": "trained", "eps": 0.0, "stop": True}
POWERS = {"directpred": 0.5, "directcopy": 1.0}


def run_js(body: str, given: Any, folder: Path, change: tuple[str, str] | None = None) -> Any:
    """What the function body returns, in node or else Chromium, with `given`, M (model.js) and B (basin.js) in scope.

    change: a piece of the sources and what to put for it, to see that a wrong formula is noticed.
    """
    text = "\n".join(source(name) for name in MODEL)
    if change:
        assert text.count(change[0]) == 1
        text = text.replace(*change)
    call = f"const M = siamscopeModel, B = siamscopeBasin, given = {json.dumps(given)};\n"
    call += f"const answer = JSON.stringify((() => {{ {body} }})());"
    if NODE:
        script = folder / "model_test.js"
        script.write_text(f"{text}\n{call}\nprocess.stdout.write(answer);", encoding="utf-8")
        done = subprocess.run([NODE, str(script)], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads(done.stdout)
    if not CHROMIUM:
        pytest.skip("neither node nor Chromium on this machine")
    page = folder / "model_test.html"
    show = "document.body.innerHTML = '<pre></pre>'; document.querySelector('pre').textContent = answer;"
    page.write_text(f"<!DOCTYPE html><body><script>{text}\n{call}\n{show}</script>", encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *flags, "--dump-dom", page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    if not found:
        pytest.skip(f"Chromium does not run here: {done.stderr[-200:]}")
    return json.loads(unescape(found[1]))


def rule(m: dict[str, Any]) -> SetRule:
    return SetRule(power=POWERS[m["predictor"]], eps=m["eps"], boost="plain")


def predictor_at(m: dict[str, Any], p: Any, s: Any) -> Any:
    """p where it is trained, else what the rule gives for s."""
    if m["predictor"] == "trained":
        return p
    return np.ones_like(s) if m["predictor"] == "none" else rule(m)(np.asarray(s)[..., None])[..., 0]


Weights = Callable[[float, float, float], tuple[float, float, float]]


def weights_rhs(m: dict[str, Any]) -> Weights:
    """(p, w, a) -> d(p, w, a)/dt of `ScalarNetwork`, or without stop-gradient of a 1 x 1 `MatrixFlow`."""
    one, follow = np.ones((1, 1)), rule(m) if m["predictor"] in POWERS else None
    flow = MatrixFlow(one, m["sigma2"] * one, 1, m["alpha_p"], m["eta"], target="online", stop_gradient=False)
    net = ScalarNetwork(m["alpha_p"], m["eta"], m["beta"], 1.0, m["sigma2"])

    def rhs(p: float, w: float, a: float) -> tuple[float, float, float]:
        p = 1.0 if m["predictor"] == "none" else float(follow(np.array([w * w]))[0]) if follow else p
        if m["stop"]:
            dp, dw, da = net.rhs(0.0, np.array([p, w, a]))
        else:
            (dw, dp), da = flow.rhs(0.0, np.array([w, p])), 0.0
        return float(dp), float(dw), float(da)

    return rhs


def course(m: dict[str, Any], p0: float, s0: float, times: Any) -> dict[str, np.ndarray]:
    """p, s, tau at increasing times from 0: the flow that fits m, by scipy at rtol 1e-11."""
    w, one = np.sqrt(s0), np.ones((1, 1))
    if not m["stop"] and m["predictor"] in ("trained", "none"):
        kind = {"trained": "trained", "none": "none"}[m["predictor"]]
        flow = MatrixFlow(
            one, m["sigma2"] * one, 1, m["alpha_p"], m["eta"], target="online", stop_gradient=False, predictor=kind
        )
        parts = {"W": [[w]]} | ({"W_p": [[p0]]} if kind == "trained" else {})
        path = solve(flow, parts, times[-1], save=times, solver=FINE)
        s = path["W"][:, 0, 0] ** 2
        return {"p": path["W_p"][:, 0, 0] if kind == "trained" else np.ones_like(s), "s": s, "tau": np.ones_like(s)}
    if m["predictor"] == "trained" and m["target"] == "fixed":
        path = solve(
            Modes(m["alpha_p"], m["eta"], m["sigma2"], m["tau"]), {"p": p0, "s": s0}, times[-1], save=times, solver=FINE
        )
        return {"p": path["p"], "s": path["s"], "tau": np.full(len(times), m["tau"])}
    if m["predictor"] in POWERS and m["target"] == "fixed" and m["stop"]:
        flow = SetModes(1, m["eta"], m["sigma2"], tau=m["tau"], rule=rule(m))
        s = solve(flow, {"s": [s0]}, times[-1], save=times, solver=FINE)["s"][:, 0]
        return {"p": predictor_at(m, None, s), "s": s, "tau": np.full(len(times), m["tau"])}
    return _by_weights(m, p0, w, times)


def _by_weights(m: dict[str, Any], p0: float, w: float, times: Any) -> dict[str, np.ndarray]:
    """Any combination, from `weights_rhs`."""
    average = m["stop"] and m["target"] == "ema"
    share, rhs = m["tau"] if m["stop"] else 1.0, weights_rhs(m)

    def slope(t: float, y: np.ndarray) -> list[float]:
        dp, dw, da = rhs(y[0], y[1], y[2] if average else share * y[1])
        return [dp if m["predictor"] == "trained" else 0.0, dw, da if average else 0.0]

    done = solve_ivp(slope, (0, times[-1]), [p0, w, share * w], "LSODA", times, rtol=1e-12, atol=1e-14)
    p, w, a = done.y
    return {"p": predictor_at(m, p, w * w), "s": w * w, "tau": a / w if average else np.full(len(times), share)}


def outcomes(m: dict[str, Any], p: Any, s: Any, t1: float = 4000.0) -> np.ndarray:
    """1, -1 or 0 for each start: by simulation to t1, or for a trained predictor and fixed tau until it is certain."""
    p, s = np.asarray(p, dtype=float), np.asarray(s, dtype=float)
    if not m["stop"] or m["predictor"] == "none":
        return np.array([2 * int(course(m, a, b, [0.0, 300.0])["s"][-1] > 1e-4) - 1 for a, b in zip(p, s, strict=True)])
    if m["predictor"] == "trained" and m["target"] == "fixed":
        flow = Modes(m["alpha_p"], m["eta"], m["sigma2"], m["tau"])
        if m["eta"] == 0:
            return np.where(flow.learns_without_decay(p, s), 1, -1)
        end = solve_many(flow, {"p": p, "s": s}, 1e6, stop=Settled())
        return flow.verdict(end.y[:, 0], end.y[:, 1]).astype(int)
    if m["predictor"] == "trained":
        net = ScalarNetwork(m["alpha_p"], m["eta"], m["beta"], 1.0, m["sigma2"])
        w = np.sqrt(s)
        end = solve_many(net, {"w_p": p, "w": w, "w_a": m["tau"] * w}, t1, rtol=1e-8, atol=1e-12)
        return np.where(end.y[:, 1] ** 2 > 1e-5 / m["alpha_p"], 1, -1)
    return np.where(_set_ends(m, s, t1) > 1e-6, 1, -1)


def _set_ends(m: dict[str, Any], s: np.ndarray, t1: float) -> np.ndarray:
    """s at t1 of modes that follow a rule, all in one system."""
    if m["target"] == "fixed":
        flow = SetModes(len(s), m["eta"], m["sigma2"], tau=m["tau"], rule=rule(m))
        return solve(flow, {"s": s}, t1, save="ends", solver=Adaptive("LSODA"))["s"][-1]
    n = len(s)

    def slope(t: float, y: np.ndarray) -> np.ndarray:
        w, a = y[:n], y[n:]
        p = rule(m)((w * w)[:, None])[:, 0]
        return np.concatenate([p * (a - (1 + m["sigma2"]) * p * w) - m["eta"] * w, m["beta"] * (w - a)])

    w = np.sqrt(s)
    done = solve_ivp(slope, (0, t1), np.concatenate([w, m["tau"] * w]), "LSODA", rtol=1e-8, atol=1e-12)
    return done.y[:n, -1] ** 2


def misalignment(m: dict[str, Any], p0: float, s0: float, t1: float) -> float:
    """exp(-2 min over t of the integral of K), by Simpson's rule on the Python trajectory."""
    from scipy.integrate import cumulative_simpson

    times = np.linspace(0, t1, 8001)
    path = course(m, p0, s0, times)
    k = Modes(m["alpha_p"], m["eta"], m["sigma2"], path["tau"]).aligned_k(path["p"], path["s"])
    return float(np.exp(-2 * cumulative_simpson(k, x=times, initial=0).min()))


__all__ = [
    "CHROMIUM",
    "DEFAULTS",
    "EMAModes",
    "course",
    "misalignment",
    "outcomes",
    "predictor_at",
    "rule",
    "run_js",
    "weights_rhs",
]
