/* A canvas with axes: scales, lines, ticks, colours from the style sheet. */
(function (root) {
  "use strict";

  /** 3 significant digits and a real minus sign. */
  function number(x, digits) {
    if (!Number.isFinite(x)) return x > 0 ? "∞" : x < 0 ? "−∞" : "–";
    if (Math.abs(x) < 1e-12) return "0";
    const text = Math.abs(x) < 1e-3 || Math.abs(x) >= 1e5 ? x.toExponential(1) : String(Number(x.toPrecision(digits || 3)));
    return text.replace(/-/g, "−");
  }

  /** 1, 2 or 5 times a power of ten, for about `count` steps in `span`. */
  function tickStep(span, count) {
    const raw = span / count, power = 10 ** Math.floor(Math.log10(raw)), share = raw / power;
    return power * (share < 1.5 ? 1 : share < 3.5 ? 2 : share < 7.5 ? 5 : 10);
  }

  const NAMES = ["page", "ink", "soft", "rule", "panel", "alive", "dead", "alive-bg", "dead-bg", "arrow", "ghost", "p", "tau"];
  let colours = {};
  function readColours() {
    const style = getComputedStyle(document.documentElement);
    for (const name of NAMES) colours[name.replace("-", "_")] = style.getPropertyValue(`--${name}`).trim();
  }

  class Plot {
    constructor(canvas, margin) {
      this.canvas = canvas;
      this.context = canvas.getContext("2d");
      this.margin = margin;
      this.measure();
    }

    /** The canvas takes the size that the page gives it; looked up on resize only, not for each frame. */
    measure() {
      const ratio = root.devicePixelRatio || 1;
      this.width = Math.max(this.canvas.clientWidth, 80);
      this.height = Math.max(this.canvas.clientHeight, 80);
      const w = Math.round(this.width * ratio), h = Math.round(this.height * ratio);
      if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
      this.ratio = ratio;
    }

    begin(x0, x1, y0, y1) {
      const { context: c, margin: m } = this;
      Object.assign(this, { x0, x1, y0, y1, left: m.left, top: m.top });
      this.right = this.width - m.right;
      this.bottom = this.height - m.bottom;
      c.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
      c.clearRect(0, 0, this.width, this.height);
      c.lineJoin = c.lineCap = "round";
      c.font = "12px system-ui, sans-serif";
    }

    x(v) { return this.left + ((v - this.x0) / (this.x1 - this.x0)) * (this.right - this.left); }
    y(v) { return this.bottom - ((v - this.y0) / (this.y1 - this.y0)) * (this.bottom - this.top); }
    back(px, py) {
      return [
        this.x0 + ((px - this.left) / (this.right - this.left)) * (this.x1 - this.x0),
        this.y0 + ((this.bottom - py) / (this.bottom - this.top)) * (this.y1 - this.y0),
      ];
    }

    inside(draw) {
      const c = this.context;
      c.save();
      c.beginPath();
      c.rect(this.left, this.top, this.right - this.left, this.bottom - this.top);
      c.clip();
      draw(c);
      c.restore();
    }

    /** A line through points; parts far outside are pulled to the edge's neighbourhood. */
    line(xs, ys, colour, width, dash) {
      const c = this.context;
      c.beginPath();
      let pen = false;
      for (let i = 0; i < xs.length; i++) {
        if (!(ys[i] === ys[i]) || Math.abs(ys[i]) === Infinity) { pen = false; continue; }
        const px = this.x(xs[i]), py = Math.min(Math.max(this.y(ys[i]), -2000), 4000);
        if (pen) c.lineTo(px, py);
        else c.moveTo(px, py);
        pen = true;
      }
      c.setLineDash(dash || []);
      c.strokeStyle = colour;
      c.lineWidth = width;
      c.stroke();
      c.setLineDash([]);
    }

    dot(x, y, radius, fill, stroke, width) {
      const c = this.context;
      c.beginPath();
      c.arc(this.x(x), this.y(y), radius, 0, 7);
      c.fillStyle = fill;
      c.fill();
      c.strokeStyle = stroke;
      c.lineWidth = width || 1.5;
      c.stroke();
    }

    text(text, px, py, colour, align) {
      const c = this.context;
      c.fillStyle = colour;
      c.textAlign = align || "left";
      c.fillText(text, px, py);
    }

    axes(xLabel, yLabel) {
      const c = this.context, across = tickStep(this.x1 - this.x0, (this.right - this.left) / 70);
      const up = tickStep(this.y1 - this.y0, (this.bottom - this.top) / 55);
      c.strokeStyle = colours.soft;
      c.lineWidth = 1;
      c.strokeRect(this.left + 0.5, this.top + 0.5, this.right - this.left - 1, this.bottom - this.top - 1);
      for (let i = Math.ceil(this.x0 / across - 1e-9); i * across <= this.x1 + 1e-9; i++) {
        const px = this.x(i * across);
        c.fillStyle = colours.soft;
        c.fillRect(px - 0.5, this.bottom, 1, 4);
        this.text(number(i * across), px, this.bottom + 16, colours.soft, "center");
      }
      for (let i = Math.ceil(this.y0 / up - 1e-9); i * up <= this.y1 + 1e-9; i++) {
        const py = this.y(i * up);
        c.fillStyle = colours.soft;
        c.fillRect(this.left - 4, py - 0.5, 4, 1);
        this.text(number(i * up), this.left - 7, py + 4, colours.soft, "right");
      }
      this.text(xLabel, (this.left + this.right) / 2, this.height - 3, colours.ink, "center");
      c.save();
      c.translate(11, (this.top + this.bottom) / 2);
      c.rotate(-Math.PI / 2);
      this.text(yLabel, 0, 0, colours.ink, "center");
      c.restore();
    }
  }

  root.siamscopePlot = { Plot, number, colours, readColours };
})(globalThis);
