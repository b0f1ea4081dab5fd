/* The page: one state, drawn again at most once a frame after it changes. */
(function (root) {
  "use strict";

  const { Plot, number, readColours, colours } = root.siamscopePlot;
  const model = root.siamscopeModel, basins = root.siamscopeBasin, course = root.siamscopeCourse;
  const { presets, modes } = JSON.parse(document.getElementById("presets-data").textContent);
  const find = (id) => document.getElementById(id);
  const START = Object.assign(model.settings({}), { p0: 0.2, s0: 0.2, balance: false });
  const WORDS = { "1": "Learns.", "-1": "Collapses.", "0": "On the edge." };

  const view = { state: Object.assign({}, START), preset: null, compare: null, zoom: 1, clock: 1, moving: false };
  const portrait = new Plot(find("portrait"), { left: 48, right: 10, top: 8, bottom: 40 });
  const chart = new Plot(find("course"), { left: 34, right: 22, top: 8, bottom: 34 });
  const updateStrip = course.strip(find("strip"), modes, (noise) => change("sigma2", noise));
  const showControls = root.siamscopeControls.build(find("controls"), change);
  let frame = 0, settle = 0, spoken = 0, playing = 0;

  // -- from the state to what is drawn --------------------------------------------------------------------------------

  function box(state) {
    const high = Math.max(1, 1.1 / state.alpha_p), z = view.zoom;
    return { p0: -0.5 / z, p1: 1.25 / z, s0: 0, s1: (model.isSet(state) ? 1 : high) / z };
  }

  /** Where the start is drawn: on the line of its rule, if the predictor follows one. */
  function startOf(state) {
    return { p: state.predictor === "trained" ? state.p0 : model.rule(state, state.s0), s: state.s0 };
  }

  function scene() {
    const m = view.state, start = startOf(m), area = box(m);
    const horizon = course.horizon(m, start, Math.min(1, 1 / m.alpha_p)), options = { maxStep: horizon / 200 };
    const path = model.path(m, start.p, start.s, horizon, options);
    const other = view.compare && Object.assign({}, m, view.compare.set);
    const otherStart = other && startOf(other);
    const compared = other && model.path(other, other.p0, otherStart.s, horizon, options);
    const found = findBasin(m, area), now = stateAt(path, view.clock * horizon);
    return {
      m, box: area, start, path, compared, other, horizon, now, clock: view.clock, basin: found, tau: now.tau,
      code: model.verdict(m, start.p, start.s), otherCode: other && model.verdict(other, other.p0, other.s0),
      balance: m.balance && m.predictor === "trained" && m.stop,
    };
  }

  /** The basin is kept while nothing that it depends on changes; a map is coarser while something moves. */
  const kept = { key: "", basin: null, n: 0, slow: false };
  function findBasin(m, area) {
    const n = !view.moving ? 128 : kept.slow ? 16 : 32;
    const parts = [m.alpha_p, m.eta, m.sigma2, m.target, m.tau, m.beta, m.predictor, m.eps, m.stop, area.p0, area.s1];
    const key = parts.join(), exact = kept.basin && kept.basin.kind !== "grid" && !kept.basin.rounds;
    if (kept.key === key && (exact || kept.n >= n)) return kept.basin;
    const begin = performance.now(), found = basins.basin(m, area, n);
    const basin = found.kind === "grid" ? basins.outline(m, area, found, 5) || found : found;
    const cost = performance.now() - begin;
    if (view.moving) kept.slow = cost > (kept.slow ? 4 : 14); // a slow device gets a coarser map while something moves
    Object.assign(kept, { key, n, basin });
    return basin;
  }

  function stateAt(path, time) {
    const t = path.t;
    let i = 1;
    while (i < t.length - 1 && t[i] < time) i++;
    const share = Math.min(Math.max((time - t[i - 1]) / (t[i] - t[i - 1] || 1), 0), 1), now = {};
    for (const name of ["p", "s", "tau"]) now[name] = path[name][i - 1] * (1 - share) + path[name][i] * share;
    return now;
  }

  function draw() {
    frame = 0;
    const now = scene();
    root.siamscopePortrait.draw(portrait, now);
    course.draw(chart, now);
    const codes = updateStrip(now.m, now.start);
    words(now, codes);
    find("reset").hidden = Object.keys(baseOf(view.preset)).every((name) => view.state[name] === baseOf(view.preset)[name]);
    showControls(view.state, { s0: Math.max(1, 1.1 / view.state.alpha_p) });
  }

  function later(moving) {
    if (moving) {
      view.moving = true;
      clearTimeout(settle);
      settle = setTimeout(() => { view.moving = false; later(false); }, 150);
    }
    if (!frame) frame = requestAnimationFrame(draw);
  }

  // -- words ----------------------------------------------------------------------------------------------------------

  function put(id, text) {
    const place = find(id);
    if (place.textContent !== text) place.textContent = text;
  }

  function why(m, code, start) {
    const end = model.limit(m, start.p, start.s);
    const kept = m.eta === 0 && m.predictor === "trained" ? " Without weight decay, where depends on the start." : "";
    if (code > 0) return `The mode rests at p = ${number(end.p)}, s = ${number(end.s)}.${kept}`;
    if (code === 0) return "The start lies on the border of the two basins.";
    if (start.s === 0) return "There is nothing to grow from: s starts at 0.";
    if (!m.stop) return "Without stop-gradient s falls from every start.";
    if (m.predictor === "none") return "Without a predictor s falls from every start.";
    if (!model.roots(m)) return `η is above ${number(model.etaLimit(m))}, the limit for this σ²: no resting point is left.`;
    if (model.isSet(m) && m.eps >= model.roots(m).high) return "ε is so large that p always overshoots.";
    return "The start lies in the basin of collapse.";
  }

  function words(now, codes) {
    const { m, code } = now, place = find("verdict"), text = why(m, code, now.start);
    place.className = `verdict ${code > 0 ? "learns" : code < 0 ? "collapses" : ""}`;
    const dashed = now.other ? ` Dashed, ${view.compare.label}: ${WORDS[now.otherCode].toLowerCase()}` : "";
    put("verdict-word", WORDS[code]);
    put("verdict-why", text + dashed);
    const alive = course.survivors(m, codes, modes);
    put("strip-text", alive);
    put("clock-out", `t = ${number(now.clock * now.horizon)}`);
    find("course").setAttribute("aria-label", `s, p${model.isEma(m) ? " and tau" : ""} from time 0 to ${number(now.horizon)}`);
    find("portrait").setAttribute("aria-label", `Start at p ${number(now.start.p, 2)}, s ${number(now.start.s, 2)}. ${WORDS[code]}`);
    facts(now);
    legend(now);
    clearTimeout(spoken);
    spoken = setTimeout(() => put("live", `${WORDS[code]} ${text}${dashed} ${alive}`), 600);
  }

  function facts(now) {
    const { m } = now, ends = model.roots(m), list = [];
    const lives = m.stop && m.predictor !== "none";
    if (lives) list.push(["Tipping point p₋, resting point p₊", ends ? `${number(ends.low)}, ${number(ends.high)}` : "none"]);
    if (lives) list.push(["Largest η for this σ²", number(model.etaLimit(m))]);
    if (model.isEma(m)) list.push(["τ = target over encoder, now", number(now.now.tau)]);
    if (lives && m.predictor === "trained") {
      const other = now.other && now.other.predictor === "trained" && now.other.stop ? `; dashed: ×${number(model.misalignment(now.compared))}` : "";
      list.push(["Misalignment grows by up to", `×${number(model.misalignment(now.path))}${other}`]);
    }
    const text = list.map(([name, value]) => `<dt>${name}</dt><dd>${value}</dd>`).join("");
    const place = find("facts");
    if (place.dataset.text !== text) { place.innerHTML = text; place.dataset.text = text; }
  }

  function legend(now) {
    const { m } = now, c = colours, list = [];
    const stroke = (colour, dash, width) =>
      `<svg viewBox="0 0 26 12" aria-hidden="true"><path d="M1 6H25" fill="none" stroke="${colour}" stroke-width="${width || 2}" stroke-dasharray="${dash || ""}"/></svg>`;
    const dot = (fill) => `<svg viewBox="0 0 26 12" aria-hidden="true"><circle cx="13" cy="6" r="4.5" fill="${fill}" stroke="${c.ink}" stroke-width="1.6"/></svg>`;
    const patch = (colour) => `<svg viewBox="0 0 26 12" aria-hidden="true"><rect width="26" height="12" rx="2" fill="${colour}" stroke="${c.rule}"/></svg>`;
    list.push(patch(c.alive_bg) + "starts that learn", patch(c.dead_bg) + "starts that collapse");
    list.push(stroke(root.siamscopePortrait.tone(now.code), "", 3) + "this start");
    if (now.other) list.push(stroke(c.ghost, "5 4", 2.5) + view.compare.label);
    const points = model.fixedPoints(m);
    if (points.some((point) => point.stable)) list.push(dot(c.ink) + "resting point");
    if (points.some((point) => !point.stable)) list.push(dot(c.page) + "tipping point");
    if (m.predictor === "trained") list.push(stroke(c.p, "5 4") + "p stands still");
    if (m.predictor === "trained" && m.stop && model.roots(m)) list.push(stroke(c.tau, "5 4") + "s stands still");
    if (m.predictor === "trained" && m.eta > 0 && m.stop) list.push(stroke(c.soft, "1.5 3.5") + "s = p²/αₚ");
    if (model.isEma(m)) list.push(`arrows: for τ = ${number(now.tau, 2)}, as at the time shown`);
    const text = list.map((item) => `<li>${item}</li>`).join(""), place = find("legend");
    if (place.dataset.text !== text) { place.innerHTML = text; place.dataset.text = text; }
  }

  // -- changes --------------------------------------------------------------------------------------------------------

  function change(name, value) {
    view.state[name] = value;
    later(true);
    remember();
  }

  const baseOf = (preset) => Object.assign({}, START, preset.set, { balance: Boolean(preset.balance) });

  function select(id) {
    const preset = presets.find((one) => one.id === id) || presets[0];
    view.preset = preset;
    view.state = baseOf(preset);
    view.compare = preset.compare || null;
    view.zoom = 1;
    put("claim-title", preset.title);
    put("claim-text", preset.text);
    for (const chip of find("presets").children) {
      chip.setAttribute("aria-pressed", String(chip.dataset.id === preset.id));
      if (chip.dataset.id === preset.id) find("presets").scrollLeft = chip.offsetLeft - find("presets").offsetLeft - 40;
    }
    later(true);
  }

  function step(by) {
    const next = (presets.indexOf(view.preset) + by + presets.length) % presets.length;
    select(presets[next].id);
    remember();
  }

  function theme(name) {
    const dark = name === "dark" || (name !== "light" && matchMedia("(prefers-color-scheme: dark)").matches);
    document.documentElement.dataset.theme = dark ? "dark" : "light";
    readColours();
    later(false);
  }

  function resized() {
    portrait.measure();
    chart.measure();
    later(false);
  }

  // -- the address keeps the state, so that it can be sent to someone ---------------------------------------------------

  function remember() {
    const base = baseOf(view.preset), parts = [`preset=${view.preset.id}`];
    for (const name in view.state) if (view.state[name] !== base[name]) parts.push(`${name}=${view.state[name]}`);
    if (find("theme").value !== "auto") parts.push(`theme=${find("theme").value}`);
    clearTimeout(remember.timer);
    remember.timer = setTimeout(() => { // browsers refuse more than a few changes a second
      try { history.replaceState(null, "", `#${parts.join("&")}`); } catch (error) { /* in a frame without an address */ }
    }, 400);
  }

  function recall() {
    const said = new URLSearchParams(location.hash.slice(1));
    select(said.get("preset"));
    for (const spec of root.siamscopeControls.CONTROLS) {
      if (!said.has(spec.name)) continue;
      const text = said.get(spec.name), value = Number(text);
      if (spec.kind === "switch") view.state[spec.name] = text === "true";
      else if (spec.kind === "choice" ? text in spec.options : text !== "" && value >= spec.min && value <= Math.max(spec.max, 5)) {
        view.state[spec.name] = spec.kind === "choice" ? text : value;
      }
    }
    if (said.has("at")) view.clock = Math.min(Math.max(Number(said.get("at")) || 0, 0), 1);
    find("clock").value = view.clock;
    if (["light", "dark"].includes(said.get("theme"))) find("theme").value = said.get("theme");
    theme(find("theme").value);
  }

  // -- hands ----------------------------------------------------------------------------------------------------------

  function moveStart(p, s) {
    const area = box(view.state), hold = (x, low, high) => Math.min(Math.max(x, low), high);
    if (view.state.predictor === "trained") view.state.p0 = Number(hold(p, area.p0, area.p1).toFixed(4));
    view.state.s0 = Number(hold(s, 0, area.s1).toFixed(4));
    later(true);
    remember();
  }

  function hands(canvas) {
    const at = (event) => {
      const place = canvas.getBoundingClientRect();
      moveStart(...portrait.back(event.clientX - place.left, event.clientY - place.top));
    };
    canvas.addEventListener("pointerdown", (event) => { canvas.setPointerCapture(event.pointerId); at(event); });
    canvas.addEventListener("pointermove", (event) => { if (canvas.hasPointerCapture(event.pointerId)) at(event); });
    canvas.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[event.key];
      if (!way) return;
      event.preventDefault();
      const size = (event.shiftKey ? 0.1 : 0.02) / view.zoom;
      moveStart(view.state.p0 + way[0] * size, view.state.s0 + way[1] * size * Math.max(1, 1 / view.state.alpha_p));
    });
  }

  function zoom(factor) {
    view.zoom = Math.min(Math.max(view.zoom * factor, 1), 16);
    later(true);
  }

  /** The clock from 0 to the end in six seconds; in ten steps for those who want no motion. */
  function play() {
    if (playing) return halt();
    const calm = matchMedia("(prefers-reduced-motion: reduce)").matches, begin = performance.now();
    put("play", "Pause");
    const tick = () => {
      const share = Math.min((performance.now() - begin) / 6000, 1);
      setClock(calm ? Math.floor(share * 10) / 10 : share);
      if (share < 1) playing = calm ? setTimeout(tick, 600) : requestAnimationFrame(tick);
      else halt();
    };
    playing = 1;
    tick();
  }

  function halt() {
    cancelAnimationFrame(playing);
    clearTimeout(playing);
    playing = 0;
    put("play", "Play");
  }

  function setClock(share) {
    view.clock = share;
    find("clock").value = share;
    later(false);
  }

  /** Milliseconds of each of `count` frames while a slider moves; canvas commands only, as the browser may draw later. */
  function bench(count, changes) {
    const before = Object.assign({}, view.state), taken = [];
    Object.assign(view.state, changes);
    for (let i = 0; i < count; i++) {
      view.state.eta = 0.05 + 0.14 * (0.5 + 0.5 * Math.sin(i / 3 + 0.1));
      view.moving = true;
      const begin = performance.now();
      draw();
      portrait.context.getImageData(0, 0, 1, 1); // wait for the drawing itself
      taken.push(performance.now() - begin);
    }
    view.state = before;
    later(true);
    return taken;
  }

  function begin() {
    for (const [index, preset] of presets.entries()) {
      const chip = document.createElement("button");
      Object.assign(chip, { type: "button", textContent: `${index + 1} ${preset.title}` });
      chip.dataset.id = preset.id;
      chip.addEventListener("click", () => { select(preset.id); remember(); });
      find("presets").append(chip);
    }
    find("previous").addEventListener("click", () => step(-1));
    find("next").addEventListener("click", () => step(1));
    find("reset").addEventListener("click", () => { select(view.preset.id); remember(); });
    find("zoom-in").addEventListener("click", () => zoom(2));
    find("zoom-out").addEventListener("click", () => zoom(0.5));
    find("theme").addEventListener("change", () => { theme(find("theme").value); remember(); });
    find("play").addEventListener("click", play);
    find("clock").addEventListener("input", () => { halt(); setClock(Number(find("clock").value)); });
    hands(find("portrait"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme(find("theme").value));
    new ResizeObserver(resized).observe(find("portrait"));
    root.addEventListener("resize", resized);
    root.addEventListener("hashchange", recall);
    if (innerWidth < 700) document.querySelector(".intro").open = false;
    recall();
    draw();
  }

  root.siamscope = { view, select, scene, draw, bench, model, basins };
  begin();
})(globalThis);
