// The frame of the explorers: controls, canvases fed with raw pixels, and words. The thinking is Python's:
// each change asks the kernel once, and while it thinks later changes wait and go together.

const SILENCE_MS = 3000;
const SILENT =
  "The kernel does not answer: it is busy, or it was restarted or lost. The pictures stay as they are. " +
  "If it stays silent, run the notebook again from the top.";

const FOCUSABLE = ["button", "canvas", "input", "select"];

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  // Jupyter leaves keys alone that are pressed in such an element. Its own selectors (":focus") look at the
  // element itself first, so that marking the root alone would not do.
  if (FOCUSABLE.includes(tag)) made.dataset.lmSuppressShortcuts = "true";
  made.append(...children);
  return made;
}

/** A labelled control; `changed()` is called when its value changes. Returns {node, read, write}. */
function control(spec, id, changed) {
  if (spec.kind === "button") {
    const button = element("button", { type: "button", textContent: spec.label });
    button.dataset.name = spec.name;
    button.addEventListener("click", () => changed(spec.name));
    return { node: button };
  }
  const node = element("div", { className: "ep-control" });
  node.dataset.name = spec.name;
  const label = element("label", { htmlFor: id, textContent: spec.label });
  if (spec.kind === "choice") {
    const options = spec.options.map((name) => element("option", { value: name, textContent: name }));
    const select = element("select", { id }, ...options);
    select.addEventListener("change", () => changed(null));
    node.append(label, select);
    return { node, read: () => select.value, write: (value) => (select.value = value) };
  }
  const input = element("input", { id, type: "range", min: 0, max: spec.stops.length - 1, step: 1 });
  const shown = element("output", { htmlFor: id });
  const say = () => {
    shown.textContent = String(spec.stops[input.value]);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    say();
    changed(null);
  });
  node.append(label, input, shown);
  const write = (value) => {
    const distances = spec.stops.map((stop) => Math.abs(stop - value));
    input.value = distances.indexOf(Math.min(...distances));
    say();
  };
  return { node, read: () => spec.stops[input.value], write };
}

/** Painting on a canvas by pointer and by keys: calls `paint([[row, column], ...])`, in pixels of the picture. */
function brush(canvas, cursor, paint) {
  let [row, column] = [null, null];
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    return [
      ((event.clientY - box.top) / box.height) * canvas.height,
      ((event.clientX - box.left) / box.width) * canvas.width,
    ];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor.hidden = true;
    paint([at(event)]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) paint([at(event)]);
  });
  canvas.addEventListener("keydown", (event) => {
    const step = event.shiftKey ? 8 : 2;
    const moves = { ArrowUp: [-step, 0], ArrowDown: [step, 0], ArrowLeft: [0, -step], ArrowRight: [0, step] };
    row ??= Math.floor(canvas.height / 2);
    column ??= Math.floor(canvas.width / 2);
    if (event.key in moves) {
      row = Math.min(canvas.height - 1, Math.max(0, row + moves[event.key][0]));
      column = Math.min(canvas.width - 1, Math.max(0, column + moves[event.key][1]));
    } else if (event.key === " " || event.key === "Enter") {
      paint([[row + 0.5, column + 0.5]]);
    } else {
      return;
    }
    event.preventDefault();
    cursor.hidden = false;
    cursor.style.top = `${(100 * (row + 0.5)) / canvas.height}%`;
    cursor.style.left = `${(100 * (column + 0.5)) / canvas.width}%`;
  });
}

function render({ model, el }) {
  const view = Math.random().toString(36).slice(2);
  const root = element("section", { className: "ep-explorer" });
  root.setAttribute("aria-label", model.get("title"));
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const words = element("p", { className: "ep-words" });
  words.setAttribute("role", "status");
  const problem = element("p", { className: "ep-problem" });
  problem.setAttribute("role", "alert");
  const panels = element("div", { className: "ep-panels" });
  const bar = element("div", { className: "ep-controls" });
  const legend = element("ul", { className: "ep-legend" });
  for (const [name, colour] of model.get("legend")) {
    const patch = element("span", { className: "ep-patch" });
    patch.style.background = colour;
    legend.append(element("li", {}, patch, name));
  }
  root.append(element("h4", { textContent: model.get("title") }), bar, problem, panels, legend, words);
  el.append(root);

  const controls = {};
  let number = 0; // of the latest request
  let waiting = null; // what goes out when the kernel has answered
  let inFlight = null; // {number, since}
  let silence = 0;
  let draws = 0;

  const values = () =>
    Object.fromEntries(
      Object.entries(controls)
        .filter(([, one]) => one.read)
        .map(([name, one]) => [name, one.read()]),
    );

  function state(name, text) {
    root.dataset.state = name;
    problem.textContent = text;
  }

  function send() {
    inFlight = { number: ++number, since: waiting.since };
    const { points, pressed } = waiting;
    waiting = null;
    clearTimeout(silence);
    silence = setTimeout(() => {
      inFlight = null; // the next change tries again
      state("silent", SILENT);
    }, SILENCE_MS);
    try {
      model.send({ view, number, values: values(), points, pressed });
    } catch {
      state("silent", SILENT);
    }
  }

  function ask(pressed, points = []) {
    waiting ??= { since: performance.now(), points: [], pressed: null };
    waiting.points.push(...points);
    waiting.pressed = pressed ?? waiting.pressed;
    if (!inFlight) send();
  }

  function place(index) {
    if (panels.children[index]) return panels.children[index];
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.dataset.panel = index;
    const frame = element("div", { className: "ep-frame" }, canvas);
    if (index === model.get("brush")) {
      const cursor = element("span", { className: "ep-cursor", hidden: true });
      frame.append(cursor);
      canvas.tabIndex = 0;
      canvas.classList.add("ep-paintable");
      brush(canvas, cursor, (points) => ask(null, points));
    }
    const figure = element("figure", {}, element("figcaption"), frame);
    panels.append(figure);
    return figure;
  }

  function draw(content, buffers) {
    content.panels.forEach((panel, index) => {
      const figure = place(index);
      const canvas = figure.querySelector("canvas");
      if (canvas.width !== panel.width) canvas.width = panel.width;
      if (canvas.height !== panel.height) canvas.height = panel.height;
      canvas.style.width = `${panel.width * panel.zoom}px`;
      const { buffer, byteOffset, byteLength } = buffers[index];
      const pixels = new Uint8ClampedArray(buffer, byteOffset, byteLength);
      canvas.getContext("2d").putImageData(new ImageData(pixels, panel.width, panel.height), 0, 0);
      canvas.setAttribute("aria-label", `${panel.caption}: ${panel.words}`);
      figure.querySelector("figcaption").textContent = panel.caption;
    });
    while (panels.children.length > content.panels.length) panels.lastChild.remove();
    words.textContent = content.words;
  }

  function show(content, buffers) {
    for (const [name, value] of Object.entries(content.values)) controls[name].write(value);
    if (content.panels.length) draw(content, buffers);
    state(content.problem ? "problem" : "ok", content.problem);
    root.dataset.draws = ++draws;
  }

  const prefix = `ep-${view}`;
  for (const spec of model.get("controls")) {
    controls[spec.name] = control(spec, `${prefix}-${spec.name}`, ask);
    bar.append(controls[spec.name].node);
  }
  const { buffers, ...content } = model.get("start");
  show(content, buffers);

  const answer = (content, buffers) => {
    if (content.view !== view || content.number !== number) return;
    clearTimeout(silence);
    if (waiting) content.values = {}; // the controls have moved on
    show(content, buffers);
    if (inFlight) root.dataset.lastMoveMs = performance.now() - inFlight.since;
    inFlight = null;
    if (waiting) send();
  };
  model.on("msg:custom", answer);
  return () => {
    clearTimeout(silence);
    model.off("msg:custom", answer);
  };
}

export default { render };
