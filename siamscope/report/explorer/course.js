/* The state over time, and the strip of modes. */
(function (root) {
  "use strict";

  const { colours, number } = root.siamscopePlot;
  const model = root.siamscopeModel;
  const LADDER = [1, 1.5, 2, 3, 5, 7];

  /** Until nothing visible happens any more, rounded up; at least 5. */
  function horizon(m, start, scale) {
    const quiet = (t, y) => {
      const s = y[1] * y[1], rate = model.plane(m, y[0], s, y[1] && model.isEma(m) ? y[2] / y[1] : model.startTau(m));
      return Math.abs(rate[0]) + Math.abs(rate[1]) < 1e-5 * scale;
    };
    const long = model.path(m, start.p, start.s, 1500, { rtol: 1e-5, atol: 1e-8, maxSteps: 1500, stop: quiet });
    const last = long.t.length - 1;
    let i = last;
    const still = (k) => Math.abs(long.p[k] - long.p[last]) < 0.01 && Math.abs(long.s[k] - long.s[last]) < 0.01 * scale;
    while (i > 0 && still(i)) i--;
    const wanted = Math.max(1.3 * long.t[Math.min(i + 1, last)], 5), power = 10 ** Math.floor(Math.log10(wanted));
    return power * (LADDER.find((step) => step * power >= wanted) || 10);
  }

  /** scene: {m, path, compared, code, box, horizon, clock (0..1), balance}. */
  function draw(plot, scene) {
    const { path, m } = scene, end = scene.horizon, c = colours;
    const tau = model.isEma(m) ? Math.min(Math.max(...path.tau), 2) : 0;
    const top = 1.1 * Math.max(0.95, tau, ...path.s, ...path.p);
    plot.begin(0, end, Math.min(0, 1.15 * Math.min(...path.p)), Math.min(top, 4.6));
    plot.inside((context) => {
      context.fillStyle = c.rule;
      context.fillRect(plot.left, plot.y(0) - 0.5, plot.right - plot.left, 1);
      if (scene.compared) plot.line(scene.compared.t, scene.compared.s, c.ghost, 2, [7, 5]);
      if (model.isEma(m)) plot.line(path.t, path.tau, c.tau, 2, [8, 3, 2, 3]);
      plot.line(path.t, path.p, c.p, 2);
      plot.line(path.t, path.s, root.siamscopePortrait.tone(scene.code), 3);
      if (scene.balance) {
        plot.line(path.t, model.balance(m, path, -1), c.dead, 2, [2, 4]);
        plot.line(path.t, model.balance(m, path, 1), c.page, 1.6, [2, 5]);
      }
      const x = plot.x(scene.clock * end);
      context.fillStyle = c.soft;
      context.fillRect(x - 0.5, plot.top, 1, plot.bottom - plot.top);
    });
    plot.axes("time", "");
    names(plot, scene);
  }

  /** Each line's name at its right end, moved apart where two ends meet. */
  function names(plot, scene) {
    const { path, m } = scene, last = path.t.length - 1, list = [
      ["s", path.s[last], root.siamscopePortrait.tone(scene.code)], ["p", path.p[last], colours.p],
    ];
    if (model.isEma(m)) list.push(["τ", path.tau[last], colours.tau]);
    if (scene.compared) list.push(["s", scene.compared.s[scene.compared.s.length - 1], colours.ghost]);
    const spots = list.map(([name, value, colour]) => ({ name, colour, y: plot.y(value) + 4 }));
    for (const spot of spots) spot.y = Math.min(Math.max(spot.y, plot.top + 8), plot.bottom + 2);
    spots.sort((a, b) => a.y - b.y);
    for (let i = 1; i < spots.length; i++) spots[i].y = Math.max(spots[i].y, spots[i - 1].y + 12);
    const over = Math.max(spots[spots.length - 1].y - plot.bottom - 2, 0);
    for (const spot of spots) if (spot.y > plot.bottom - 30) spot.y -= over;
    for (const spot of spots) plot.text(spot.name, plot.right + 6, spot.y, spot.colour);
  }

  /** Eight buttons, made once; `update` gives each its height and colour. */
  function strip(place, noises, choose) {
    const buttons = noises.map((noise) => {
      const button = document.createElement("button");
      button.type = "button";
      button.innerHTML = `<span class="tube"><span class="bar"></span></span><span class="mark"></span><span>${number(noise)}</span>`;
      button.addEventListener("click", () => choose(noise));
      place.append(button);
      return button;
    });
    const limit = document.createElement("div");
    limit.className = "limit";
    place.append(limit);
    return (m, start) => {
      const full = model.restTau(m) ** 2 / m.alpha_p;
      const found = noises.map((noise, i) => {
        const own = Object.assign({}, m, { sigma2: noise }), code = model.verdict(own, start.p, start.s);
        const end = model.limit(own, start.p, start.s), alive = code > 0;
        const share = alive ? Math.min(end.s / full, 1) : 0, button = buttons[i];
        button.className = alive ? "one" : "none";
        button.querySelector(".bar").style.height = `${100 * share}%`;
        button.querySelector(".mark").textContent = alive ? "lives" : "dies";
        button.setAttribute("aria-pressed", String(Math.abs(m.sigma2 - noise) < 1e-9));
        button.setAttribute("aria-label", `sigma squared ${noise}: ${alive ? "survives" : "collapses"}`);
        return code;
      });
      placeLimit(limit, noises, m);
      return found;
    };
  }

  /** The dashed line between the modes that weight decay lets live and those that it does not. */
  function placeLimit(limit, noises, m) {
    const edge = model.noiseLimit(m), count = noises.filter((noise) => noise < edge).length;
    const shown = m.stop && m.predictor !== "none" && count < noises.length;
    limit.className = shown ? "limit" : "limit right";
    limit.style.left = `calc(${(100 * count) / noises.length}% - 1px)`;
  }

  /** One sentence on who survives, and why the others do not. */
  function survivors(m, codes, noises) {
    const alive = codes.filter((code) => code > 0).length, all = codes.length;
    if (!m.stop || m.predictor === "none") return `${alive} of ${all} modes survive.`;
    const edge = model.noiseLimit(m), quiet = noises.filter((noise) => noise < edge).length, lost = quiet - alive;
    const tau = model.restTau(m) === 1 ? "1" : "τ²";
    const rule = edge === Infinity ? "Without weight decay none is too noisy." : edge > 0
      ? `Only those with σ² below ${tau}/(4η) − 1 = ${number(edge)} (dashed line) can.`
      : `At this weight decay none can: ${tau}/(4η) − 1 is ${number(edge)}.`;
    const weak = lost > 0 ? ` ${lost} more could, but not from this start.` : "";
    return `${alive} of ${all} modes survive. ${rule}${weak}`;
  }

  root.siamscopeCourse = { draw, horizon, strip, survivors };
})(globalThis);
