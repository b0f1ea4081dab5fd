/* Dormand and Prince's embedded Runge-Kutta pair of order 5(4), with error control. No DOM. */
(function (root) {
  "use strict";

  const A = [
    [1 / 5],
    [3 / 40, 9 / 40],
    [44 / 45, -56 / 15, 32 / 9],
    [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
    [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
    [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
  ];
  const E = [71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40];

  /**
   * dy/dt = f(y), written into f's second argument, from y at time 0 to t1. `y` holds the last state afterwards.
   * options: rtol, atol, maxStep, maxSteps, stop(t, y) -> true ends it (looked at after every step).
   * Returns {t, status}: "done", "stopped", or "budget" when the steps ran out or became too small.
   */
  function integrate(f, y, t1, options) {
    const rtol = options.rtol, atol = options.atol, n = y.length;
    const maxStep = options.maxStep || Infinity, maxSteps = options.maxSteps || 20000, stop = options.stop;
    const k = [];
    for (let i = 0; i < 7; i++) k.push(new Float64Array(n));
    const next = new Float64Array(n);
    f(y, k[0]);
    let t = 0, h = Math.min(firstStep(y, k[0], rtol, atol), maxStep);
    for (let step = 0; step < maxSteps; step++) {
      const last = t + h >= t1, used = last ? t1 - t : h;
      for (let i = 1; i < 7; i++) {
        const row = A[i - 1];
        for (let j = 0; j < n; j++) {
          let sum = 0;
          for (let m = 0; m < i; m++) sum += row[m] * k[m][j];
          next[j] = y[j] + used * sum;
        }
        f(next, k[i]);
      }
      let worst = 0;
      for (let j = 0; j < n; j++) {
        let error = 0;
        for (let m = 0; m < 7; m++) error += E[m] * k[m][j];
        const share = Math.abs(used * error) / (atol + rtol * Math.max(Math.abs(y[j]), Math.abs(next[j])));
        if (!(share <= worst)) worst = share; // NaN counts as too large
      }
      if (worst <= 1) {
        t = last ? t1 : t + used;
        y.set(next);
        [k[0], k[6]] = [k[6], k[0]];
        if (stop && stop(t, y)) return { t, status: "stopped" };
        if (last) return { t, status: "done" };
      }
      const factor = worst === worst ? 0.9 * Math.pow(Math.max(worst, 1e-10), -0.2) : 0.2;
      h = Math.min(used * Math.min(Math.max(factor, 0.2), 8), maxStep);
      if (h < 1e-14 * Math.max(t, 1e-3)) break;
    }
    return { t, status: "budget" };
  }

  function firstStep(y, slope, rtol, atol) {
    let size = 0, rate = 0;
    for (let j = 0; j < y.length; j++) {
      const scale = atol + rtol * Math.abs(y[j]);
      size = Math.max(size, Math.abs(y[j]) / scale);
      rate = Math.max(rate, Math.abs(slope[j]) / scale);
    }
    return size < 1e-5 || rate < 1e-5 ? 1e-4 : (0.05 * size) / rate;
  }

  root.siamscopeSolver = { integrate };
  if (typeof module !== "undefined") module.exports = root.siamscopeSolver;
})(globalThis);
