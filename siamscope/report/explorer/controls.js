/* The settings: what can be set, in which words, and the form that sets it. */
(function (root) {
  "use strict";

  const { number } = root.siamscopePlot;
  const trained = (s) => s.predictor === "trained";
  const set = (s) => s.predictor === "directpred" || s.predictor === "directcopy";
  const average = (s) => s.stop && s.target === "ema";

  /** kind "range" (log: the slider moves the exponent), "choice" or "switch"; `on` says when it matters, `why` why not. */
  const CONTROLS = [
    { name: "eta", label: "Weight decay η", kind: "range", min: 0, max: 0.35, step: 0.005,
      help: "Shrinks all weights. Too little filters nothing, too much kills every mode." },
    { name: "sigma2", label: "Augmentation noise σ²", kind: "range", min: 0, max: 4, step: 0.05,
      help: "How much the augmentations vary this mode; its own variance is 1." },
    { name: "stop", label: "Stop-gradient", kind: "switch", help: "The target gets no gradient." },
    { name: "predictor", label: "Predictor", kind: "choice",
      options: { trained: "trained by gradient", none: "none: p = 1", directpred: "DirectPred: p = √s + ε", directcopy: "DirectCopy: p = s + ε" },
      help: "The extra layer between the online branch and the comparison." },
    { name: "alpha_p", label: "Predictor's rate αₚ", kind: "range", min: 0.25, max: 16, log: true, on: trained,
      help: "Its learning rate over the encoder's.", why: "This predictor is not trained." },
    { name: "eps", label: "Predictor boost ε", kind: "range", min: 0, max: 1, step: 0.01, on: set,
      help: "Added to p, so that weak modes get a push (ε times the largest s in the paper).", why: "For DirectPred and DirectCopy." },
    { name: "target", label: "Target", kind: "choice", on: (s) => s.stop,
      options: { fixed: "encoder itself, times τ", ema: "slow average (EMA)" },
      help: "What the online branch is compared with.", why: "Without stop-gradient it is the encoder itself." },
    { name: "tau", label: (s) => (average(s) ? "Target over encoder at the start, τ(0)" : "Target over encoder, τ"), kind: "range",
      min: 0.1, max: 1, step: 0.01, on: (s) => s.stop, help: "1: the target equals the encoder (SimSiam).", why: "Without stop-gradient it is 1." },
    { name: "beta", label: "Target's rate β", kind: "range", min: 0.02, max: 2, log: true, on: average,
      help: "How fast the average follows.", why: "For a slow average." },
    { name: "p0", label: "Start p(0)", kind: "range", min: -0.5, max: 1.25, step: 0.01, on: trained,
      help: "Or drag the start in the picture.", why: "p follows from the predictor's rule." },
    { name: "s0", label: "Start s(0)", kind: "range", min: 0, max: 1, step: 0.005, help: "The encoder's strength at first." },
    { name: "balance", label: "Show s by eq. (14)", kind: "switch", on: (s) => trained(s) && s.stop,
      help: "White dots: right sign of c; orange dots: as printed.", why: "For a trained predictor with stop-gradient." },
  ];

  const toSlider = (spec, value) => (spec.log ? Math.log2(value) : value);
  const fromSlider = (spec, value) => (spec.log ? Number((2 ** value).toPrecision(3)) : value);

  /** Make the form; returns (state, limits) -> void, which shows a state. `changed(name, value)` hears of every move. */
  function build(form, changed) {
    form.addEventListener("submit", (event) => event.preventDefault());
    const rows = CONTROLS.map((spec) => {
      const row = document.createElement("div"), id = `set-${spec.name}`;
      row.className = `control ${spec.kind}`;
      const input = field(spec, id, changed), label = document.createElement("label"), help = document.createElement("p");
      label.htmlFor = id;
      help.className = "how";
      help.id = `${id}-help`;
      input.setAttribute("aria-describedby", help.id);
      const output = document.createElement("output");
      output.htmlFor = id;
      output.setAttribute("aria-live", "off"); // the slider itself says its value
      row.append(...(spec.kind === "switch" ? [input, label, help] : spec.kind === "range" ? [label, output, input, help] : [label, input, help]));
      form.append(row);
      return { spec, row, input, label, help, output };
    });
    return (state, limits) => rows.forEach((row) => show(row, state, limits));
  }

  function field(spec, id, changed) {
    if (spec.kind === "choice") {
      const select = document.createElement("select");
      for (const [value, text] of Object.entries(spec.options)) select.add(new Option(text, value));
      select.addEventListener("change", () => changed(spec.name, select.value));
      return Object.assign(select, { id });
    }
    const input = Object.assign(document.createElement("input"), { id, type: spec.kind === "range" ? "range" : "checkbox" });
    if (spec.kind === "switch") input.addEventListener("change", () => changed(spec.name, input.checked));
    else {
      Object.assign(input, { min: toSlider(spec, spec.min), max: toSlider(spec, spec.max), step: spec.log ? 0.05 : spec.step });
      input.addEventListener("input", () => changed(spec.name, fromSlider(spec, Number(input.value))));
    }
    return input;
  }

  function show({ spec, row, input, label, help, output }, state, limits) {
    const on = !spec.on || spec.on(state), text = typeof spec.label === "function" ? spec.label(state) : spec.label;
    if (label.textContent !== text) label.textContent = text;
    const words = on ? spec.help : spec.why;
    if (help.textContent !== words) help.textContent = words;
    input.disabled = !on;
    row.classList.toggle("off", !on);
    const value = state[spec.name];
    if (spec.kind === "switch") input.checked = value;
    else if (spec.kind === "choice") input.value = value;
    else {
      if (limits && limits[spec.name]) input.max = limits[spec.name];
      const slid = String(toSlider(spec, value));
      if (Math.abs(Number(input.value) - Number(slid)) > 1e-9) input.value = slid;
      output.textContent = number(value);
      input.setAttribute("aria-valuetext", number(value));
    }
  }

  root.siamscopeControls = { CONTROLS, build };
})(globalThis);
