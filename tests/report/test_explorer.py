"""The explorer's numbers against siamscope.dynamics: flows, closed forms, trajectories, verdicts, basins, survivors."""

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explorer_oracles import DEFAULTS, course, misalignment, outcomes, predictor_at, rule, run_js, weights_rhs

from siamscope.dynamics import EMAModes, Modes, SetModes, largest_decay, largest_noise, separatrix

PREDICTORS = ("trained", "none", "directpred", "directcopy")
TARGETS = ("ema", "fixed", "no stop-gradient")
BOX = {"p0": -0.5, "p1": 1.25, "s0": 0.0, "s1": 1.0}


def configurations(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Each predictor with each target, `count` random settings of each."""
    draw = np.random.default_rng(seed)
    found = []
    for predictor, target in product(PREDICTORS, TARGETS):
        for _ in range(count):
            sigma2, tau = draw.uniform(0, 1.5), draw.uniform(0.5, 1.0)
            rest = tau if target == "fixed" else 1.0
            eta = draw.uniform(0.2, 0.95) * float(largest_decay(sigma2, tau=rest))
            m = {"alpha_p": float(np.exp(draw.uniform(-1.3, 2.5))), "eta": eta, "sigma2": sigma2, "tau": tau}
            m |= {"beta": float(np.exp(draw.uniform(-3, 0.5))), "eps": draw.choice([0.0, draw.uniform(0, 0.15)])}
            m |= {
                "predictor": predictor,
                "target": "ema" if target == "ema" else "fixed",
                "stop": target in TARGETS[:2],
            }
            found.append(DEFAULTS | m)
    return found


def rhs_gap(folder: Path, change: tuple[str, str] | None = None) -> float:
    """Largest difference of the plane's right-hand side from the Python one, over random states of every kind."""
    draw = np.random.default_rng(1)
    given = [(m, draw.uniform(-0.5, 1.3), draw.uniform(0.01, 1), draw.uniform(0.3, 1.5)) for m in configurations(25)]
    body = "return given.map(([m, p, s, tau]) => M.plane(m, p, s, m.stop && m.target === 'ema' ? tau : M.startTau(m)))"
    worst = 0.0
    for (m, p, s, tau), got in zip(given, run_js(body, given, folder, change), strict=True):
        worst = max(worst, float(np.abs(np.subtract(got, plane(m, p, s, tau))).max()))
    return worst


def plane(m: dict[str, Any], p: float, s: float, tau: float) -> list[float]:
    """d(p, s, tau)/dt: from `Modes`, `EMAModes` and `SetModes` where they have the case, else from the weights."""
    average = m["stop"] and m["target"] == "ema"
    tau = tau if average else m["tau"] if m["stop"] else 1.0
    w = np.sqrt(s)
    dp, dw, da = weights_rhs(m)(p, w, tau * w)
    ds, dtau = 2 * w * dw, (da - tau * dw) / w if average else 0.0
    if m["predictor"] == "none":
        return [0.0, ds, dtau]
    if m["predictor"] == "trained":
        if average:
            dp, ds, dtau = EMAModes(m["alpha_p"], m["eta"], m["sigma2"], beta=m["beta"]).rhs(0.0, np.array([p, s, tau]))
        elif m["stop"]:
            dp, ds = Modes(m["alpha_p"], m["eta"], m["sigma2"], tau).rhs(0.0, np.array([p, s]))
        return [dp, ds, dtau]
    if m["stop"]:
        ds = SetModes(1, m["eta"], m["sigma2"], tau=tau, rule=rule(m)).rhs(0.0, np.array([s]))[0]
    power = rule(m).power
    return [power * s ** (power - 1) * ds, ds, dtau]


def test_right_hand_sides(tmp_path: Path) -> None:
    assert rhs_gap(tmp_path) < 1e-12


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("return p * (tau - (1 + m.sigma2) * p) - m.eta;", "return p * (tau - p) - m.eta;"),
        ("m.sigma2 * (p * p + 1) + (p - 1) * (p - 1)", "m.sigma2 * p * p + (p - 1) * (p - 1)"),
        ("m.beta * (1 - tau) - tau * rate", "m.beta * (1 - tau) + tau * rate"),
    ],
)
def test_a_wrong_flow_is_noticed(right: str, wrong: str, tmp_path: Path) -> None:
    assert rhs_gap(tmp_path, (right, wrong)) > 1e-3


def test_closed_forms(tmp_path: Path) -> None:
    given = [m for m in configurations(20, 2) if m["predictor"] == "trained" and m["stop"]]
    body = "return given.map((m) => [M.roots(m), M.etaLimit(m), M.noiseLimit(m), M.fixedPoints(m)])"
    for m, (roots, eta, noise, points) in zip(given, run_js(body, given, tmp_path), strict=True):
        modes = Modes(m["alpha_p"], m["eta"], m["sigma2"], m["tau"] if m["target"] == "fixed" else 1.0)
        assert [roots["low"], roots["high"]] == pytest.approx([float(x) for x in modes.roots()], rel=1e-12)
        assert eta == pytest.approx(float(modes.eta_limit), rel=1e-12)
        assert noise == pytest.approx(float(largest_noise(m["eta"], tau=modes.constant_tau)), rel=1e-9, abs=1e-12)
        for point in points:
            state = np.array([point["p"], point["s"]])
            assert np.abs(modes.rhs(0.0, state)).max() < 1e-12
            assert (np.linalg.eigvals(modes.jacobian(*state)).real.max() < 0) == point["stable"]
        assert len(points) == 3


def test_fixed_points_of_set_predictors(tmp_path: Path) -> None:
    """At rest, and of the stability that the sign of ds/dt on both sides says."""
    given = [
        m for m in configurations(40, 3) if m["predictor"] in PREDICTORS[2:] and m["stop"] and m["target"] == "fixed"
    ]
    counts = set()
    for m, points in zip(given, run_js("return given.map((m) => M.fixedPoints(m))", given, tmp_path), strict=True):
        flow = SetModes(1, m["eta"], m["sigma2"], tau=m["tau"], rule=rule(m))
        counts.add(len(points))
        for point in points:
            s = point["s"]
            assert abs(flow.rhs(0.0, np.array([s]))[0]) < 1e-12
            sides = [flow.rhs(0.0, np.array([s + d]))[0] for d in (1e-7, *((-1e-7,) if s > 1e-7 else ()))]
            assert (sides[0] < 0 and (len(sides) == 1 or sides[1] > 0)) == point["stable"]
    assert counts == {2, 3}


def test_trajectories(tmp_path: Path) -> None:
    draw = np.random.default_rng(4)
    times = [0.0, 0.5, 2.0, 7.0, 20.0, 60.0]
    given = [(m, draw.uniform(0, 1), draw.uniform(0.05, 1)) for m in configurations(2, 5)]
    body = f"return given.map(([m, p, s]) => M.at(m, p, s, {times}))"
    for (m, p, s), got in zip(given, run_js(body, given, tmp_path), strict=True):
        want = course(m, p, s, times)
        for name in ("p", "s"):
            assert np.array([now[name] for now in got]) == pytest.approx(want[name], abs=1e-6), (m, name)
        assert np.array([now["tau"] for now in got]) == pytest.approx(want["tau"], rel=1e-5, abs=1e-6), m


def test_verdicts(tmp_path: Path) -> None:
    """12 kinds x 3 settings x 30 random starts (2 where each is solved alone), some above eta's limit."""
    draw = np.random.default_rng(6)
    given = []
    for m in configurations(3, 7):
        heavy = m | {"eta": 1.1 * float(largest_decay(m["sigma2"]))} if draw.random() < 0.1 else m
        slow = m["predictor"] == "none" or not m["stop"]  # one solve each there
        size = 2 if slow else 30
        top = max(1.0, 1 / m["alpha_p"])
        given.append((heavy, draw.uniform(-0.5, 1.25, size).tolist(), (top * draw.random(size) ** 4).tolist()))
    body = "return given.map(([m, ps, ss]) => ps.map((p, i) => M.verdict(m, p, ss[i])))"
    seen: dict[tuple[str, str, bool, int], int] = {}
    for (m, p, s), got in zip(given, run_js(body, given, tmp_path), strict=True):
        want = outcomes(m, p, s)
        assert got == want.tolist(), m
        for code in got:
            key = (m["predictor"], m["target"], m["stop"], code)
            seen[key] = seen.get(key, 0) + 1
    assert sum(seen.values()) > 500
    for predictor, target in product(("trained", "directpred", "directcopy"), ("fixed", "ema")):
        assert seen[predictor, target, True, 1] >= 15
        assert seen[predictor, target, True, -1] >= 5


def test_verdicts_without_decay(tmp_path: Path) -> None:
    draw = np.random.default_rng(8)
    p, s = draw.uniform(-1, 1.5, 200), draw.uniform(0.005, 1, 200)
    plain = DEFAULTS | {"eta": 0.0, "alpha_p": 2.0, "tau": 0.8}
    body = "return given.m.map((m) => given.p.map((p, i) => [M.verdict(m, p, given.s[i]), M.limit(m, p, given.s[i])]))"
    slow = plain | {"target": "ema", "beta": 0.3}
    fixed, average = run_js(body, {"m": [plain, slow], "p": p.tolist(), "s": s.tolist()}, tmp_path)
    modes = Modes(2.0, 0.0, 0.1, 0.8)
    assert [code for code, _ in fixed] == np.where(modes.learns_without_decay(p, s), 1, -1).tolist()
    ends = np.array([[end["p"], end["s"]] for _, end in fixed])
    assert ends == pytest.approx(np.stack(modes.limit_without_decay(p, s), -1), abs=1e-12)
    assert [code for code, _ in average] == outcomes(slow, p, s, 3000.0).tolist()


def test_limits(tmp_path: Path) -> None:
    """Where the page says that a mode comes to rest, the Python trajectory is after a long time."""
    given = [(m, 0.5, 0.6) for m in configurations(1, 9)]
    body = "return given.map(([m, p, s]) => M.limit(m, p, s))"
    for (m, p, s), got in zip(given, run_js(body, given, tmp_path), strict=True):
        want = course(m, p, s, [0.0, 3000.0])
        assert [got["p"], got["s"]] == pytest.approx([want["p"][-1], want["s"][-1]], abs=1e-5), m


def test_basin_of_a_trained_predictor(tmp_path: Path) -> None:
    """Cell by cell, 41 x 30. Left out: cells nearer than 1e-3 to Python's separatrix, whose points are
    joined by straight lines here."""
    given = {"m": [], "p": np.linspace(-0.5, 1.25, 41).tolist(), "s": np.linspace(0.0, 1.0, 31)[1:].tolist()}
    for alpha_p, eta, sigma2, tau in ((1, 0.12, 0.1, 1), (4, 0.2, 0.1, 1), (1, 0.03, 1.0, 0.7), (0.5, 0.2, 0.2, 1)):
        given["m"].append(DEFAULTS | {"alpha_p": alpha_p, "eta": eta, "sigma2": sigma2, "tau": tau})
    body = f"""const box = {BOX!r}; return given.m.map((m) => {{
      const found = B.basin(m, box); return given.p.map((p) => given.s.map((s) => B.look(found, box, p, s))) }})"""
    p, s = np.meshgrid(given["p"], given["s"], indexing="ij")
    for m, got in zip(given["m"], run_js(body, given, tmp_path), strict=True):
        want = outcomes(m, p.ravel(), s.ravel()).reshape(p.shape)
        curve = separatrix(Modes(m["alpha_p"], m["eta"], m["sigma2"], m["tau"]), (-0.51, 1.26), (0.0, 4.0))
        edge = np.interp(p, curve[:, 0], curve[:, 1], left=np.inf, right=np.inf)
        clear = np.abs(s - edge) > 1e-3
        assert clear.mean() > 0.99
        assert (np.array(got) == want)[clear].all(), m
        assert {-1, 1} <= set(want.ravel().tolist())


def test_basin_of_an_average(tmp_path: Path) -> None:
    """The refined map agrees at every point of its grid; just above and below its outline the verdict differs."""
    m = DEFAULTS | {"target": "ema", "beta": 0.15, "tau": 0.8}
    body = f"""const box = {BOX!r}, found = B.basin(given, box, 32), curve = B.outline(given, box, found, 8);
      return [Array.from(found.code), curve.p, curve.s]"""
    codes, p, edge = run_js(body, m, tmp_path)
    grid = np.meshgrid(np.linspace(-0.5, 1.25, 33), np.linspace(0, 1, 33), indexing="ij")
    assert codes == outcomes(m, grid[0].ravel(), grid[1].ravel(), 2000.0).tolist()
    inside = (np.array(edge) > 1e-3) & (np.array(edge) < 1)
    p, edge = np.array(p)[inside], np.array(edge)[inside]
    assert inside.sum() > 8
    assert (outcomes(m, p, edge + 2e-3, 2000.0) == 1).all()
    assert (outcomes(m, p, np.maximum(edge - 2e-3, 1e-5), 2000.0) == -1).all()


def test_basin_of_a_set_predictor(tmp_path: Path) -> None:
    given = [m for m in configurations(4, 10) if m["predictor"] in PREDICTORS[2:] and m["stop"]]
    given = [m | {"eps": 0.02} for m in given]
    edges = run_js(f"return given.map((m) => B.basin(m, {BOX!r}).s)", given, tmp_path)
    for m, edge in zip(given, edges, strict=True):
        assert 0 < edge < 1
        assert outcomes(m, [0.0, 0.0], [edge * 0.998, edge * 1.002], 20_000.0).tolist() == [-1, 1], m


def test_surviving_modes(tmp_path: Path) -> None:
    """A strong start: exactly the modes with sigma2 below tau^2 / (4 eta) - 1 survive, in the page and in Python."""
    noises = [0.0, 0.1, 0.3, 0.6, 0.9, 1.2, 2.0, 4.0]
    given = [
        DEFAULTS | {"eta": eta, "predictor": predictor, "target": target, "sigma2": noise}
        for eta in (0.02, 0.07, 0.12, 0.18, 0.26)
        for predictor, target in product(("trained", "directpred", "directcopy"), ("fixed", "ema"))
        for noise in noises
    ]
    start = {"trained": (0.3, 0.5), "directpred": (0.0, 0.3), "directcopy": (0.0, 0.5)}
    pairs = [(m, *start[m["predictor"]]) for m in given]
    got = run_js("return given.map(([m, p, s]) => M.verdict(m, p, s))", pairs, tmp_path)
    assert got == [1 if m["sigma2"] < largest_noise(m["eta"]) else -1 for m in given]
    for (m, p, s), code in list(zip(pairs, got, strict=True))[::7]:
        assert outcomes(m, [p], [s]).tolist() == [code]


def balance_gap(folder: Path, change: tuple[str, str] | None = None) -> float:
    m = DEFAULTS | {"eta": 0.06, "alpha_p": 2.0}
    body = "const path = M.path(given, 0.9, 0.1, 30); return [path.s, M.balance(given, path, 1), path.t]"
    s, formula, _ = run_js(body, m, folder, change)
    return float(np.abs(np.subtract(s, formula)).max())


def test_the_balance_and_its_printed_sign(tmp_path: Path) -> None:
    """Eq. (14) with c = s - p^2 / alpha_p lies on the trajectory; with the sign that the paper prints it is far off."""
    assert balance_gap(tmp_path) < 1e-6
    right, printed = "s - (p * p) / m.alpha_p;", "(p * p) / m.alpha_p - s;"
    assert balance_gap(tmp_path, (f"=> {right}", f"=> {printed}")) > 0.1


def test_misalignment(tmp_path: Path) -> None:
    given = [DEFAULTS | {"eta": 0.04, "alpha_p": 2.0}, DEFAULTS | {"eta": 0.04, "target": "ema", "tau": 0.9}]
    body = "return given.map((m) => M.misalignment(M.path(m, 0.1, 0.01, 200, { maxStep: 0.05 })))"
    for m, got in zip(given, run_js(body, given, tmp_path), strict=True):
        assert got == pytest.approx(misalignment(m, 0.1, 0.01, 200.0), rel=1e-4)
        assert got > 1.01


def test_predictor_rules(tmp_path: Path) -> None:
    """Each rule, and its inverse."""
    s = np.linspace(0, 1, 11)
    for predictor in ("directpred", "directcopy"):
        m = DEFAULTS | {"predictor": predictor, "eps": 0.07}
        body = "return given.s.map((s) => [M.rule(given.m, s), M.ruleInverse(given.m, M.rule(given.m, s))])"
        got = np.array(run_js(body, {"m": m, "s": s.tolist()}, tmp_path))
        assert got[:, 0] == pytest.approx(predictor_at(m, None, s), abs=1e-15)
        assert got[:, 1] == pytest.approx(s, abs=1e-12)
