/* Which starts collapse: the separatrix by integration back in time, or a map refined along its edges. No DOM. */
(function (root) {
  "use strict";

  const solver = root.siamscopeSolver || require("./solver.js");
  const model = root.siamscopeModel || require("./model.js");

  /**
   * What a start in `box` {p0, p1, s0, s1} comes to. One of
   *   {kind: "all", code}          the same everywhere
   *   {kind: "band", s}            collapse up to s, whatever p is: a set predictor
   *   {kind: "curve", p, s}        collapse up to the curve s(p), p increasing; beyond its ends s is infinite
   *   {kind: "grid", n, code}      code[i * (n + 1) + j] at p of i and s of j, each from 0 to n
   */
  function basin(m, box, n) {
    if (!m.stop || m.predictor === "none") {
      const moves = m.eta > 0 || m.sigma2 > 0 || (m.predictor === "none" && m.stop && !model.isEma(m) && m.tau < 1);
      return moves || !m.stop ? { kind: "all", code: -1 } : { kind: "all", code: 1 };
    }
    const ends = model.roots(m);
    if (!ends) return { kind: "all", code: -1 };
    if (model.isSet(m)) return { kind: "band", s: threshold(m, ends) };
    if (m.eta === 0) return withoutDecay(m, box);
    if (model.isEma(m)) return grid(m, box, n || 64);
    return Object.assign({ kind: "curve" }, separatrix(m, ends, box));
  }

  /** 1 or -1 at one start, read off the basin. */
  function look(found, box, p, s) {
    if (found.kind === "all") return s > 0 ? found.code : -1;
    if (found.kind === "band") return s > found.s ? 1 : -1;
    if (found.kind === "curve") return s > 0 && s > height(found, p) ? 1 : -1;
    const n = found.n, share = (x, low, high) => Math.min(Math.max(Math.round(((x - low) / (high - low)) * n), 0), n);
    return found.code[share(p, box.p0, box.p1) * (n + 1) + share(s, box.s0, box.s1)];
  }

  /** s of the curve at p, on the straight lines between its points. */
  function height(curve, p) {
    const x = curve.p, last = x.length - 1;
    if (!(p >= x[0] && p <= x[last])) return Infinity;
    let low = 0, high = last;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (x[middle] <= p) low = middle;
      else high = middle;
    }
    const width = x[high] - x[low];
    return width > 0 ? curve.s[low] + ((curve.s[high] - curve.s[low]) * (p - x[low])) / width : curve.s[low];
  }

  /** The s up to which a set predictor's mode collapses. With an average: by bisection, which the flow's order allows. */
  function threshold(m, ends) {
    if (m.eps >= ends.high) return Infinity;
    if (m.eps > ends.low) return 0;
    const still = model.ruleInverse(m, ends.low);
    if (!model.isEma(m) || still === 0) return still;
    let low = still * Math.min(1, 1 / m.tau ** 2) * 0.999, high = still * Math.max(1, 1 / m.tau ** 2) * 1.001;
    for (let i = 0; i < 40 && high - low > 1e-12 * high; i++) {
      const middle = Math.sqrt(low * high);
      if (model.verdict(m, 0, middle) > 0) high = middle;
      else low = middle;
    }
    return Math.sqrt(low * high);
  }

  /** eta = 0, in closed form: up to s = p^2 / alpha_p for p < 0, and (p^2 - p*^2) / alpha_p beyond p*. */
  function withoutDecay(m, box) {
    const rest = model.restTau(m) / (1 + m.sigma2), curve = { kind: "curve", p: [], s: [] };
    for (let i = 0; i <= 400; i++) {
      const p = box.p0 + ((box.p1 - box.p0) * i) / 400;
      curve.p.push(p);
      curve.s.push(p < 0 ? (p * p) / m.alpha_p : Math.max(p * p - rest * rest, 0) / m.alpha_p);
    }
    return curve;
  }

  /**
   * The stable manifold of the saddle, in q^2 = alpha_p s, where alpha_p is 1: eq. (11), (12) back in time from beside
   * (p_-, p_-^2) along the eigenvector of -2 eta, until it leaves the box or rises above it.
   */
  function separatrix(m, ends, box) {
    const total = 1 + m.sigma2, tau = m.tau, eta = m.eta, p = ends.low;
    const back = (y, out) => {
      const gain = tau - total * y[0];
      out[0] = eta * y[0] - gain * y[1];
      out[1] = 2 * y[1] * (eta - y[0] * gain);
    };
    const along = [1, ((tau * p - 2 * eta) * p) / eta], length = Math.hypot(along[0], along[1]);
    const top = 1.5 * Math.max(box.s1 * m.alpha_p, p * p);
    const branch = (sign) => {
      const size = (sign * 1e-6 * Math.hypot(p, p * p)) / length;
      const y = Float64Array.of(p + size * along[0], p * p + size * along[1]), points = [[y[0], y[1]]];
      const outside = () => y[0] < box.p0 - 0.05 || y[0] > box.p1 + 0.05 || y[1] > top;
      const stop = () => { points.push([y[0], y[1]]); return outside(); };
      solver.integrate(back, y, 60 / eta, { rtol: 1e-9, atol: 1e-13, maxStep: 0.04 / eta, maxSteps: 4000, stop });
      return points;
    };
    const points = branch(-1).reverse().concat([[p, p * p]], branch(1));
    return { p: points.map((point) => point[0]), s: points.map((point) => point[1] / m.alpha_p) };
  }

  /**
   * The verdict on an (n + 1) x (n + 1) grid of starts, n a multiple of 8: every 8th point, then half the spacing again
   * and again, integrating only where neighbours of the coarser grid differ. A strip thinner than 8 may be missed.
   */
  function grid(m, box, n) {
    const code = new Int8Array((n + 1) * (n + 1)), known = new Uint8Array(code.length);
    const solve = (i, j) => {
      const index = i * (n + 1) + j;
      if (!known[index]) {
        known[index] = 1;
        code[index] = model.verdict(m, box.p0 + ((box.p1 - box.p0) * i) / n, box.s0 + ((box.s1 - box.s0) * j) / n);
      }
      return code[index];
    };
    for (let i = 0; i <= n; i += 8) for (let j = 0; j <= n; j += 8) solve(i, j);
    for (let half = 4; half >= 1; half /= 2) refine(code, known, solve, n, half);
    return { kind: "grid", n, code };
  }

  /** From spacing 2 half to half: points between equal corners take their value, the others are solved. */
  function refine(code, known, solve, n, half) {
    const row = n + 1, step = 2 * half;
    const corners = (i, j) => [[i, j], [i + step, j], [i, j + step], [i + step, j + step]];
    const mixed = new Uint8Array((n / step) ** 2), across = n / step;
    for (let i = 0; i < n; i += step) {
      for (let j = 0; j < n; j += step) {
        const seen = corners(i, j).map(([a, b]) => code[a * row + b]);
        mixed[(i / step) * across + j / step] = Number(seen.some((value) => value !== seen[0]));
      }
    }
    const near = (a, b) => { // a mixed cell, or one beside it: edges bend
      for (let i = Math.max(a - 1, 0); i <= Math.min(a + 1, across - 1); i++) {
        for (let j = Math.max(b - 1, 0); j <= Math.min(b + 1, across - 1); j++) if (mixed[i * across + j]) return true;
      }
      return false;
    };
    for (let a = 0; a < across; a++) {
      for (let b = 0; b < across; b++) {
        const i = a * step, j = b * step, open = near(a, b);
        for (const [x, y] of [[half, 0], [0, half], [half, half], [step, half], [half, step]]) {
          const index = (i + x) * row + j + y;
          if (open) solve(i + x, j + y);
          else if (!known[index]) code[index] = code[i * row + j];
        }
      }
    }
  }

  /** A grid's edge as a curve, each crossing found by `rounds` bisections; null where a column has not one edge. */
  function outline(m, box, found, rounds) {
    const n = found.n, row = n + 1, curve = { kind: "curve", rounds, p: [], s: [] };
    for (let i = 0; i <= n; i++) {
      let j = 0;
      while (j <= n && found.code[i * row + j] <= 0) j++;
      for (let k = j; k <= n; k++) if (found.code[i * row + k] <= 0) return null;
      const p = box.p0 + ((box.p1 - box.p0) * i) / n, s = (k) => box.s0 + ((box.s1 - box.s0) * k) / n;
      let low = s(Math.max(j - 1, 0)), high = s(Math.min(j, n));
      for (let k = 0; k < rounds && j > 0 && j <= n; k++) {
        const middle = (low + high) / 2;
        if (model.verdict(m, p, middle) > 0) high = middle;
        else low = middle;
      }
      curve.p.push(p);
      curve.s.push(j > n ? 4 * box.s1 : j === 0 ? 0 : (low + high) / 2);
    }
    return curve;
  }

  root.siamscopeBasin = { basin, look, height, threshold, separatrix, outline };
  if (typeof module !== "undefined") module.exports = root.siamscopeBasin;
})(globalThis);
