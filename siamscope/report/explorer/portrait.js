/* The (p, s) plane: basins, arrows, nullclines, resting points, trajectories, the movable start. */
(function (root) {
  "use strict";

  const { colours } = root.siamscopePlot;
  const model = root.siamscopeModel;

  /** scene: {m, box, basin, tau (now), path, compared, code, start: {p, s}, now: {p, s}}. */
  function draw(plot, scene) {
    const { m, box } = scene, c = colours;
    plot.begin(box.p0, box.p1, box.s0, box.s1);
    plot.inside(() => {
      fillBasin(plot, scene.basin, box);
      if (m.predictor === "trained") {
        arrows(plot, m, scene.tau);
        nullclines(plot, scene);
      }
      border(plot, scene.basin);
      if (scene.compared) plot.line(scene.compared.p, scene.compared.s, c.ghost, 2.5, [7, 5]);
      plot.line(scene.path.p, scene.path.s, c.page, 5.5);
      plot.line(scene.path.p, scene.path.s, tone(scene.code), 3);
      if (m.predictor !== "trained") line(plot, scene);
    });
    const small = plot.height < 340;
    plot.axes(small ? "p, the predictor's scale" : "p, by how much the predictor scales the mode",
      small ? "s, strength" : "s, strength of the mode in the encoder");
    for (const point of model.fixedPoints(m)) {
      if (point.p < box.p0 || point.p > box.p1 || point.s > box.s1) continue;
      plot.dot(point.p, point.s, 6, point.stable ? c.ink : c.page, point.stable ? c.page : c.ink, 2);
    }
    if (scene.now) plot.dot(scene.now.p, scene.now.s, 5, tone(scene.code), c.page, 2);
    plot.dot(scene.start.p, scene.start.s, 9, c.page, tone(scene.code), 3);
    plot.dot(scene.start.p, scene.start.s, 2.5, tone(scene.code), tone(scene.code), 1);
  }

  const tone = (code) => (code > 0 ? colours.alive : code < 0 ? colours.dead : colours.soft);

  function fillBasin(plot, basin, box) {
    const c = plot.context, everywhere = basin.kind === "all" && basin.code < 0;
    c.fillStyle = everywhere ? colours.dead_bg : colours.alive_bg;
    c.fillRect(plot.left, plot.top, plot.right - plot.left, plot.bottom - plot.top);
    c.fillStyle = colours.dead_bg;
    if (basin.kind === "band") {
      const top = Math.max(plot.y(Math.min(basin.s, box.s1)), plot.top);
      c.fillRect(plot.left, top, plot.right - plot.left, plot.bottom - top);
    } else if (basin.kind === "curve") underCurve(plot, basin);
    else if (basin.kind === "grid") image(plot, basin, box);
  }

  function underCurve(plot, curve) {
    const c = plot.context, last = curve.p.length - 1, top = plot.top - 5;
    c.beginPath();
    c.moveTo(plot.left, plot.bottom);
    c.lineTo(plot.left, curve.p[0] > plot.x0 ? top : plot.y(curve.s[0]));
    if (curve.p[0] > plot.x0) c.lineTo(plot.x(curve.p[0]), top);
    for (let i = 0; i <= last; i++) c.lineTo(plot.x(curve.p[i]), Math.max(plot.y(curve.s[i]), -4000));
    if (curve.p[last] < plot.x1) {
      c.lineTo(plot.x(curve.p[last]), top);
      c.lineTo(plot.right, top);
    }
    c.lineTo(plot.right, plot.bottom);
    c.fill();
  }

  const patch = document.createElement("canvas");
  function image(plot, grid, box) {
    const row = grid.n + 1, context = patch.getContext("2d");
    patch.width = patch.height = row;
    const pixels = context.createImageData(row, row), c = plot.context;
    const one = rgb(colours.alive_bg), other = rgb(colours.dead_bg);
    for (let i = 0; i < row; i++) {
      for (let j = 0; j < row; j++) {
        const at = 4 * ((row - 1 - j) * row + i);
        pixels.data.set(grid.code[i * row + j] > 0 ? one : other, at);
        pixels.data[at + 3] = 255;
      }
    }
    context.putImageData(pixels, 0, 0);
    const dx = (plot.x(box.p1) - plot.x(box.p0)) / grid.n, dy = (plot.y(box.s0) - plot.y(box.s1)) / grid.n;
    c.drawImage(patch, plot.x(box.p0) - dx / 2, plot.y(box.s1) - dy / 2, dx * row, dy * row);
  }

  const rgb = (hex) => [1, 3, 5].map((i) => parseInt(hex.slice(i, i + 2), 16));

  function border(plot, basin) {
    if (basin.kind === "curve") plot.line(basin.p, basin.s, colours.ink, 1.6);
    else if (basin.kind === "band" && basin.s > 0) plot.line([plot.x0, plot.x1], [basin.s, basin.s], colours.ink, 1.6);
  }

  /** Short streamlines through the points of a grid, shorter where the flow is slow, each with a head. */
  function arrows(plot, m, tau) {
    const c = plot.context, gap = plot.width < 420 ? 30 : 36;
    const wide = plot.right - plot.left, high = plot.bottom - plot.top;
    const sx = wide / (plot.x1 - plot.x0), sy = -high / (plot.y1 - plot.y0);
    const step = (px, py, length) => {
      const [p, s] = plot.back(px, py), rate = model.plane(m, p, Math.max(s, 0), tau);
      const dx = rate[0] * sx, dy = rate[1] * sy, size = Math.hypot(dx, dy);
      return size > 0 ? [(dx / size) * length, (dy / size) * length, size] : [0, 0, 0];
    };
    c.strokeStyle = c.fillStyle = colours.arrow;
    c.lineWidth = 1.1;
    c.beginPath();
    const heads = [];
    for (let px = plot.left + gap / 2; px < plot.right; px += gap) {
      for (let py = plot.bottom - gap / 2; py > plot.top; py -= gap) {
        const speed = step(px, py, 1)[2] / Math.max(wide, high);
        const each = (Math.min(0.9, 0.22 + 0.85 * Math.sqrt(speed)) * gap) / 8;
        let x = px, y = py;
        for (let i = 0; i < 4; i++) { const [dx, dy] = step(x, y, -each); x += dx; y += dy; }
        c.moveTo(x, y);
        let dx = 0, dy = 0;
        for (let i = 0; i < 8; i++) { [dx, dy] = step(x, y, each); x += dx; y += dy; c.lineTo(x, y); }
        heads.push([x, y, dx / each, dy / each]);
      }
    }
    c.stroke();
    c.beginPath();
    for (const [x, y, ux, uy] of heads) head(c, x, y, ux, uy, 4.5);
    c.fill();
  }

  function head(c, x, y, ux, uy, size) {
    c.moveTo(x + ux * size * 0.6, y + uy * size * 0.6);
    c.lineTo(x - ux * size - uy * size * 0.6, y - uy * size + ux * size * 0.6);
    c.lineTo(x - ux * size + uy * size * 0.6, y - uy * size - ux * size * 0.6);
    c.closePath();
  }

  /** dp/dt = 0, ds/dt = 0 and the parabola to which weight decay draws the mode, at the target's share now. */
  function nullclines(plot, scene) {
    const { m, tau } = scene, p = [], still = [], parabola = [], total = 1 + m.sigma2;
    for (let i = 0; i <= 240; i++) {
      const x = plot.x0 + ((plot.x1 - plot.x0) * i) / 240;
      const s = (m.eta * x) / (m.alpha_p * (tau - total * x));
      p.push(x);
      still.push(s >= -1e-9 && x < tau / total ? s : NaN);
      parabola.push((x * x) / m.alpha_p);
    }
    if (m.eta > 0 && m.stop) plot.line(p, parabola, colours.soft, 1.2, [1.5, 4]);
    if (m.eta > 0) plot.line(p, still, colours.p, 1.6, [6, 4]);
    else plot.line([tau / total, tau / total], [plot.y0, plot.y1], colours.p, 1.6, [6, 4]);
    const square = tau * tau - 4 * m.eta * total;
    if (!m.stop || square < 0) return;
    for (const sign of [-1, 1]) {
      const x = (tau + sign * Math.sqrt(square)) / (2 * total);
      plot.line([x, x], [plot.y0, plot.y1], colours.tau, 1.4, [6, 4]);
    }
  }

  /** Where p follows from s the mode can be on one line only: with arrowheads the way it moves on it. */
  function line(plot, scene) {
    const { m, box, tau } = scene, c = plot.context, p = [], s = [];
    for (let i = 0; i <= 300; i++) {
      s.push(box.s1 * (i / 300) ** 2);
      p.push(model.rule(m, s[i]));
    }
    plot.line(p, s, colours.soft, 1);
    c.fillStyle = colours.ink;
    c.beginPath();
    let walked = 18;
    for (let i = 1; i <= 300; i++) {
      const dx = plot.x(p[i]) - plot.x(p[i - 1]), dy = plot.y(s[i]) - plot.y(s[i - 1]), length = Math.hypot(dx, dy);
      walked += length;
      if (walked < 34 || !length) continue;
      walked = 0;
      const sign = Math.sign(model.growth(m, p[i], tau));
      if (sign) head(c, plot.x(p[i]), plot.y(s[i]), (sign * dx) / length, (sign * dy) / length, 6);
    }
    c.fill();
  }

  root.siamscopePortrait = { draw, tone };
})(globalThis);
