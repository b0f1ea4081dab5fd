/*
 * One mode of the linear network: p, the predictor's eigenvalue, and s, that of W W^T. Pure functions, no DOM.
 *
 *   dp/dt = alpha_p s [tau - (1 + sigma2) p] - eta p                                        (11)
 *   ds/dt = 2 p s [tau - (1 + sigma2) p] - 2 eta s                                          (12)
 *
 * Equations of Tian, Chen & Ganguli 2021. Integrated in the weights, y = [p, w, a, k] with s = w^2 and tau = a / w: an
 * average target stays finite where w passes through 0. k is the integral of (9), for the growth of misalignment.
 *
 * Settings: predictor "trained" | "none" (p = 1) | "directpred" (p = s^1/2 + eps) | "directcopy" (p = s + eps);
 * stop: false lets the gradient through the target, which is then the encoder itself; target "fixed" (a = tau w) | "ema"
 * (da/dt = beta (w - a), tau being its start); alpha_p, eta, sigma2, tau, beta, eps.
 */
(function (root) {
  "use strict";

  const solver = root.siamscopeSolver || require("./solver.js");
  const DEFAULTS = {
    alpha_p: 1, eta: 0.12, sigma2: 0.1, target: "fixed", tau: 1, beta: 0.1, predictor: "trained", eps: 0, stop: true,
  };
  const POWERS = { directpred: 0.5, directcopy: 1 };

  function settings(changes) {
    const m = Object.assign({}, DEFAULTS, changes);
    for (const name of ["alpha_p", "eta", "sigma2", "tau", "beta", "eps"]) {
      if (!Number.isFinite(m[name]) || m[name] < 0) throw new RangeError(`${name} must be a number of 0 or more`);
    }
    if (m.alpha_p === 0 || m.tau === 0) throw new RangeError("alpha_p and tau must be above 0");
    if (!["trained", "none", "directpred", "directcopy"].includes(m.predictor)) throw new RangeError("predictor");
    if (!["fixed", "ema"].includes(m.target)) throw new RangeError("target must be fixed or ema");
    return m;
  }

  const isSet = (m) => m.predictor in POWERS;
  const isEma = (m) => m.stop && m.target === "ema";
  /** tau where nothing moves any more: an average has caught up with the encoder. */
  const restTau = (m) => (m.stop && m.target === "fixed" ? m.tau : 1);
  const startTau = (m) => (m.stop ? m.tau : 1);

  /** p of a predictor that is not trained, from s. */
  function rule(m, s) {
    if (m.predictor === "none") return 1;
    return (m.predictor === "directpred" ? Math.sqrt(s) : s) + m.eps;
  }

  /** The reverse: s at which the rule gives p; NaN if none does. */
  const ruleInverse = (m, p) => (p >= m.eps ? Math.pow(p - m.eps, 1 / POWERS[m.predictor]) : NaN);

  /** (ds/dt) / (2 s). Without stop-gradient both views' gradients count, and none of them lets s grow. */
  function growth(m, p, tau) {
    if (!m.stop) return -(m.sigma2 * (p * p + 1) + (p - 1) * (p - 1) + m.eta);
    return p * (tau - (1 + m.sigma2) * p) - m.eta;
  }

  /** [dp/dt, ds/dt, dtau/dt]; with a set predictor p is rule(s), whatever is given. */
  function plane(m, p, s, tau) {
    if (m.predictor !== "trained") p = rule(m, s);
    const t = m.stop ? tau : 1, rate = growth(m, p, t), ds = 2 * s * rate;
    let dp = m.alpha_p * s * (t - (1 + m.sigma2) * p) - m.eta * p;
    if (m.predictor === "none") dp = 0;
    else if (isSet(m)) dp = m.predictor === "directpred" ? Math.sqrt(s) * rate : ds;
    return [dp, ds, isEma(m) ? m.beta * (1 - tau) - tau * rate : 0];
  }

  /** This mode's eigenvalue of K, eq. (9): two such modes become aligned while it is positive. */
  const alignment = (m, p, s, tau) => (m.alpha_p * (1 + m.sigma2) * s) / 2 - p * (tau - (1 + m.sigma2) * p) + 1.5 * m.eta;

  /** Right-hand side in the weights, for `integrate`. */
  function flow(m) {
    const trained = m.predictor === "trained", ema = isEma(m), total = 1 + m.sigma2, tau = startTau(m);
    return (y, out) => {
      const w = y[1], p = trained ? y[0] : rule(m, w * w), a = ema ? y[2] : tau * w;
      const gap = a - total * p * w;
      out[0] = trained ? m.alpha_p * gap * w - m.eta * p : 0;
      out[1] = m.stop ? p * gap - m.eta * w : growth(m, p, 1) * w;
      out[2] = ema ? m.beta * (w - a) : 0;
      out[3] = (m.alpha_p * total * w * w) / 2 - p * ((w ? a / w : tau) - total * p) + 1.5 * m.eta;
    };
  }

  function begin(m, p0, s0) {
    const w = Math.sqrt(s0);
    return Float64Array.of(m.predictor === "trained" ? p0 : 0, w, isEma(m) ? m.tau * w : 0, 0);
  }

  function read(m, y) {
    const s = y[1] * y[1], p = m.predictor === "trained" ? y[0] : rule(m, s);
    return { p, s, tau: isEma(m) ? (y[1] ? y[2] / y[1] : m.tau) : startTau(m), k: y[3] };
  }

  /** {t, p, s, tau, k}: arrays along the trajectory to t1, at the solver's steps; `more` are options of `integrate`. */
  function path(m, p0, s0, t1, more) {
    const out = { t: [0], p: [], s: [], tau: [], k: [] }, y = begin(m, p0, s0);
    const push = () => { const now = read(m, y); for (const name in now) out[name].push(now[name]); };
    push();
    const options = Object.assign({ rtol: 1e-8, atol: 1e-11 }, more), stop = options.stop;
    options.stop = (t) => { out.t.push(t); push(); return stop ? stop(t, y) : false; };
    solver.integrate(flow(m), y, t1, options);
    return out;
  }

  /** The states at increasing times. */
  function at(m, p0, s0, times) {
    const f = flow(m), y = begin(m, p0, s0);
    let now = 0;
    return times.map((time) => {
      if (time > now) solver.integrate(f, y, time - now, { rtol: 1e-10, atol: 1e-13 });
      now = time;
      return read(m, y);
    });
  }

  // -- closed forms ---------------------------------------------------------------------------------------------------

  /** p_- and p_+, where a mode neither grows nor shrinks (at the tau of rest); null above the limit of eta. */
  function roots(m) {
    const tau = restTau(m), total = 1 + m.sigma2, square = tau * tau - 4 * m.eta * total;
    if (square < 0) return null;
    const high = (tau + Math.sqrt(square)) / (2 * total);
    return { low: m.eta / (total * high), high };
  }

  /** Weight decay above which a mode must collapse, and augmentation variance above which it must at this decay. */
  const etaLimit = (m) => restTau(m) ** 2 / (4 * (1 + m.sigma2));
  const noiseLimit = (m) => restTau(m) ** 2 / (4 * m.eta) - 1;
  /** c of eq. (14), s = p^2 / alpha_p + c exp(-2 eta t). The paper prints it with the other sign. */
  const excess = (m, p, s) => s - (p * p) / m.alpha_p;

  /** s by eq. (14) from p at times t, with c as it is right (sign 1) or as printed (sign -1). */
  function balance(m, trajectory, sign) {
    const c = sign * excess(m, trajectory.p[0], trajectory.s[0]);
    return trajectory.t.map((t, i) => trajectory.p[i] ** 2 / m.alpha_p + c * Math.exp(-2 * m.eta * t));
  }

  /** The most by which a small misalignment of two such modes grows on the way, exp(-2 min int K); trained only. */
  const misalignment = (trajectory) => Math.exp(-2 * Math.min(...trajectory.k));

  // -- verdict: 1 the mode stays above 0 for good, -1 it collapses, 0 undecided (on the separatrix) ---------------------

  function verdict(m, p0, s0) {
    if (!(s0 > 0)) return -1;
    if (!m.stop) return withoutStop(m, p0, s0);
    if (m.predictor === "none") return withoutPredictor(m);
    const ends = roots(m);
    if (!ends) return -1;
    if (isSet(m)) return setVerdict(m, ends, s0);
    if (m.eta === 0) return withoutDecay(m, p0, s0);
    return isEma(m) ? averaged(m, ends, p0, s0) : settled(m, ends, p0, s0);
  }

  /** Everything collapses, but for noise-free directions without decay: there p -> 1 and s - (1 - p)^2 / alpha_p stays. */
  function withoutStop(m, p0, s0) {
    if (m.sigma2 > 0 || m.eta > 0) return -1;
    if (m.predictor === "none") return 1;
    if (isSet(m)) return rule(m, s0) >= 1 && m.eps < 1 ? 1 : -1;
    return m.alpha_p * s0 > (1 - p0) ** 2 ? 1 : -1;
  }

  /** s falls at rate 2 (sigma2 + eta) for tau = 1; with nothing to shrink it, it stays where it is. */
  function withoutPredictor(m) {
    const rate = (isEma(m) ? 1 : m.tau) - (1 + m.sigma2) - m.eta;
    return rate < 0 ? -1 : 1;
  }

  /** eta = 0, exact; holds for any target, since c and with it the sign of p where c < 0 are kept. */
  function withoutDecay(m, p0, s0) {
    const c = excess(m, p0, s0), rest = restTau(m) / (1 + m.sigma2);
    return c > 0 || (p0 > 0 && -m.alpha_p * c < rest * rest) ? 1 : -1;
  }

  /**
   * A set predictor is a flow on one line, or with an average one in (w, a) that keeps order: what is below p_- in
   * both stays below, what is above in both stays above. Between the two it is integrated.
   */
  function setVerdict(m, ends, s0) {
    if (m.eps >= ends.high) return -1;
    if (m.eps > ends.low) return 1;
    const side = (low, high) => (rule(m, low * low) > ends.low ? 1 : rule(m, high * high) < ends.low ? -1 : 0);
    const w = Math.sqrt(s0);
    if (!isEma(m)) return side(w, w);
    let code = side(Math.min(w, m.tau * w), Math.max(w, m.tau * w));
    if (code) return code;
    const stop = (t, y) => (code = side(Math.min(y[1], y[2]), Math.max(y[1], y[2]))) !== 0;
    solver.integrate(flow(m), begin(m, 0, s0), 1e5, { rtol: 1e-6, atol: 1e-9, maxSteps: 3000, stop });
    return code;
  }

  /**
   * Trained predictor, fixed tau: certain from the corner (p_-, p_-^2 / alpha_p) of the parabola, as `Modes.verdict`; and
   * within a tenth of p_+ - p_- of rest, where s cannot fall below the corner before p is back.
   */
  function settled(m, ends, p0, s0) {
    const corner = (ends.low * ends.low) / m.alpha_p, near = 0.1 * (ends.high - ends.low);
    const side = (p, s) => {
      if (Math.abs(p - ends.high) < near && Math.abs(Math.sqrt(m.alpha_p * s) - ends.high) < near) return 1;
      if (p <= ends.low && s <= corner && !(p === ends.low && s === corner)) return -1;
      const held = p <= ends.high || excess(m, p, s) >= 0;
      return p >= ends.low && s >= corner && held && !(p === ends.low && s === corner) ? 1 : 0;
    };
    let code = side(p0, s0);
    if (code) return code;
    const stop = (t, y) => (code = side(y[0], y[1] * y[1])) !== 0;
    solver.integrate(flow(m), begin(m, p0, s0), 1e5, { rtol: 1e-7, atol: 1e-10, maxSteps: 3000, stop });
    return code;
  }

  /**
   * Trained predictor, averaged target. With q = sqrt(alpha_p) w and b = sqrt(alpha_p) a: the cube |p|, |q|, |b| < p_-
   * only shrinks. A mode that learns is one that comes near the rest p = q = b = p_+, which attracts.
   */
  function averaged(m, ends, p0, s0) {
    const root_ = Math.sqrt(m.alpha_p), near = 0.2 * (ends.high - ends.low);
    let code = 0;
    const stop = (t, y) => {
      const p = y[0], q = Math.abs(root_ * y[1]), b = root_ * y[2] * Math.sign(y[1]);
      if (Math.max(Math.abs(p), q, Math.abs(b)) < ends.low) code = -1;
      else if (Math.max(Math.abs(p - ends.high), Math.abs(q - ends.high), Math.abs(b - ends.high)) < near) code = 1;
      return code !== 0;
    };
    const y = begin(m, p0, s0).slice(0, 3), total = 1 + m.sigma2;
    const lean = (state, out) => { // `flow` without k: this runs for every point of a map
      const gap = state[2] - total * state[0] * state[1];
      out[0] = m.alpha_p * gap * state[1] - m.eta * state[0];
      out[1] = state[0] * gap - m.eta * state[1];
      out[2] = m.beta * (state[1] - state[2]);
    };
    if (!stop(0, y)) solver.integrate(lean, y, 1e5, { rtol: 1e-6, atol: 1e-9, maxSteps: 3000, stop });
    return code;
  }

  /** {p, s} in the end, or null where the verdict is open. A mode that collapses under eta = 0 may keep its p. */
  function limit(m, p0, s0) {
    const code = verdict(m, p0, s0);
    if (code === 0) return null;
    if (code < 0) return { p: deadP(m, p0, s0), s: 0 };
    if (m.predictor === "none") return { p: 1, s: isEma(m) ? keptByAverage(m, s0) : s0 };
    if (!m.stop) return isSet(m) ? { p: 1, s: ruleInverse(m, 1) } : { p: 1, s: s0 - (1 - p0) ** 2 / m.alpha_p };
    const p = roots(m).high;
    if (isSet(m)) return { p, s: ruleInverse(m, p) };
    return { p, s: (p * p) / m.alpha_p + (m.eta === 0 ? excess(m, p0, s0) : 0) };
  }

  /** Noise-free, no decay, no predictor: w and its average meet where beta w + a is kept. */
  const keptByAverage = (m, s0) => (Math.sqrt(s0) * (m.beta + m.tau) / (m.beta + 1)) ** 2;

  function deadP(m, p0, s0) {
    if (m.predictor !== "trained") return rule(m, 0);
    if (m.eta > 0) return 0;
    if (s0 === 0) return p0;
    if (m.stop) return Math.sign(p0) * Math.sqrt(Math.max(-m.alpha_p * excess(m, p0, s0), 0));
    return NaN; // without stop-gradient and decay it depends on the way
  }

  /** Where nothing moves: [{p, s, stable}], s above 0 last. Empty of life where eta is above its limit. */
  function fixedPoints(m) {
    if (!m.stop || m.predictor === "none") return m.eta > 0 || m.sigma2 > 0 ? [dead(m, true)] : [];
    const ends = roots(m);
    if (isSet(m)) {
      const grows = ends && m.eps > ends.low && m.eps < ends.high, found = [dead(m, !grows)];
      if (!ends || m.eps >= ends.high) return found;
      if (m.eta > 0 && m.eps <= ends.low) found.push({ p: ends.low, s: ruleInverse(m, ends.low), stable: false });
      return found.concat({ p: ends.high, s: ruleInverse(m, ends.high), stable: true });
    }
    if (m.eta === 0) return []; // two lines of them: s = 0, and p = tau / (1 + sigma2)
    if (!ends) return [dead(m, true)];
    const point = (p, stable) => ({ p, s: (p * p) / m.alpha_p, stable });
    return [dead(m, true), point(ends.low, false), point(ends.high, true)];
  }

  const dead = (m, stable) => ({ p: m.predictor === "trained" ? 0 : rule(m, 0), s: 0, stable });

  root.siamscopeModel = {
    settings, isSet, isEma, restTau, startTau, rule, ruleInverse, growth, plane, alignment, flow, begin, path, at,
    roots, etaLimit, noiseLimit, excess, balance, misalignment, verdict, limit, fixedPoints,
  };
  if (typeof module !== "undefined") module.exports = root.siamscopeModel;
})(globalThis);
