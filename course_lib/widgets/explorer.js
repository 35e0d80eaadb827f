// What the explorers share: controls, canvases, pointers and keys, legends and words; and where an explorer's
// thinking comes from. Nothing here knows what is explored.
//
// An explorer's own module exports pure functions and ends in
//
//     export { widget as default };        where  const widget = local(open)
//
// `open(data)` returns `respond(event)`, which makes of {values, pressed, points} an answer, or a promise of one:
// {panels: [{caption, words, zoom, height, width, pixels, marks}], words, values, problem}. `pixels` are RGBA bytes;
// `marks`, which may be absent, are drawn over them (see `drawMark`).

const FOCUSABLE = ["button", "canvas", "input", "select"];
const SHARPNESS = 2; // pixels of a canvas for each of a picture that has marks

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  // Jupyter leaves keys alone that are pressed in such an element. Its own selectors (":focus") look at the
  // element itself first, so that marking the root alone would not do.
  if (FOCUSABLE.includes(tag)) made.dataset.lmSuppressShortcuts = "true";
  made.append(...children);
  return made;
}

/** A labelled control; `changed()` is called when its value changes. Returns {node, read, write, take(files)}. */
function control(spec, id, changed) {
  if (spec.kind === "button") {
    const button = element("button", { type: "button", textContent: spec.label });
    button.dataset.name = spec.name;
    button.addEventListener("click", () => changed(spec.name));
    return { node: button };
  }
  if (spec.kind === "file") {
    const node = element("div", { className: "ep-control" });
    node.dataset.name = spec.name;
    const input = element("input", { id, type: "file", accept: "image/*" });
    const take = (files) =>
      files[0] && pixelsOf(files[0], ...spec.size).then((pixels) => changed(null, [], pixels), (error) => changed(error));
    input.addEventListener("change", () => take(input.files));
    node.append(element("label", { htmlFor: id, textContent: spec.label }), input);
    return { node, take };
  }
  return spec.kind === "choice" ? choice(spec, id, () => changed(null)) : slider(spec, id, () => changed(null));
}

/** A list to choose from: `options` are values, or [value, text]. Returns {node, input, read, write(value)}. */
export function choice({ name, label, options }, id, changed) {
  const pairs = options.map((one) => (Array.isArray(one) ? one : [one, one]));
  const input = element("select", { id }, ...pairs.map(([value, text]) => element("option", { value, textContent: text })));
  input.addEventListener("change", changed);
  const node = element("div", { className: "ep-control" }, element("label", { htmlFor: id, textContent: label }), input);
  node.dataset.name = name;
  return { node, input, read: () => input.value, write: (value) => (input.value = value) };
}

/**
 * A slider over `stops`; `said(value, stops)` is what stands beside it.
 *
 * Returns {node, input, read, write(value), limit(stops)}.
 */
export function slider({ name, label, stops, said = String }, id, changed) {
  const input = element("input", { id, type: "range", min: 0, max: stops.length - 1, step: 1 });
  const shown = element("output", { htmlFor: id });
  const say = () => {
    shown.textContent = said(stops[input.value], stops);
    input.setAttribute("aria-valuetext", shown.textContent);
  };
  input.addEventListener("input", () => {
    say();
    changed();
  });
  const node = element("div", { className: "ep-control" }, element("label", { htmlFor: id, textContent: label }), input, shown);
  node.dataset.name = name;
  const write = (value) => {
    const distances = stops.map((stop) => Math.abs(stop - value));
    input.value = distances.indexOf(Math.min(...distances));
    say();
  };
  const limit = (others) => {
    stops = others;
    input.max = stops.length - 1;
  };
  return { node, input, read: () => stops[input.value], write, limit };
}

/** A list of what colours mean: [name, colour], or [name, null, class] where a style sheet draws the patch. */
export function legendOf(names) {
  const list = element("ul", { className: "ep-legend" });
  for (const [name, colour, kind = ""] of names) {
    const patch = element("span", { className: `ep-patch ${kind}`.trim() });
    if (colour) patch.style.background = colour;
    list.append(element("li", {}, patch, name));
  }
  return list;
}

/** RGB bytes of an image in a file, its middle cut to the shape of height x width pixels and resized. */
async function pixelsOf(file, height, width) {
  const image = await createImageBitmap(file).catch(() => {
    throw new Error(`${file.name} is no image that this browser reads.`);
  });
  const scale = Math.min(image.width / width, image.height / height);
  const [wide, tall] = [scale * width, scale * height];
  const pen = element("canvas", { width, height }).getContext("2d");
  pen.imageSmoothingQuality = "high";
  pen.drawImage(image, (image.width - wide) / 2, (image.height - tall) / 2, wide, tall, 0, 0, width, height);
  return pen.getImageData(0, 0, width, height).data.filter((_, at) => at % 4 !== 3);
}

/** Where a pointer is on a canvas, [row, column] in pixels of the picture of that size that it shows. */
export function pointAt(event, canvas, { height, width }) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientY - box.top) / box.height) * height, ((event.clientX - box.left) / box.width) * width];
}

const ARROWS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

/** [down, across] of a key event with an arrow, `far` with Shift; null for other keys, and with other modifiers. */
export function arrowStep(event, near, far) {
  if (!ARROWS[event.key] || event.ctrlKey || event.metaKey || event.altKey) return null;
  return ARROWS[event.key].map((way) => way * (event.shiftKey ? far : near));
}

/** Painting on a canvas by pointer and by keys: calls `paint([[row, column], ...])`, in pixels of the picture. */
function brush(canvas, cursor, size, paint) {
  let [row, column] = [null, null];
  const at = (event) => pointAt(event, canvas, size());
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor.hidden = true;
    paint([at(event)]);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (event.buttons & 1) paint([at(event)]);
  });
  canvas.addEventListener("keydown", (event) => {
    const { height, width } = size();
    const step = arrowStep(event, 2, 8);
    row ??= Math.floor(height / 2);
    column ??= Math.floor(width / 2);
    if (step) {
      row = Math.min(height - 1, Math.max(0, row + step[0]));
      column = Math.min(width - 1, Math.max(0, column + step[1]));
    } else if (event.key === " " || event.key === "Enter") {
      paint([[row + 0.5, column + 0.5]]);
    } else {
      return;
    }
    event.preventDefault();
    cursor.hidden = false;
    cursor.style.top = `${(100 * (row + 0.5)) / height}%`;
    cursor.style.left = `${(100 * (column + 0.5)) / width}%`;
  });
}

/** One mark, in pixels of the picture: {kind, points, fill, stroke, thickness, radius, text, size}. */
function drawMark(pen, { kind, points, fill, stroke, thickness = 1, radius = 0, text = "", size = 12 }) {
  pen.beginPath();
  const [[x, y]] = points;
  if (kind === "text") {
    pen.font = `${size}px system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillStyle = fill;
    pen.fillText(text, x, y);
    return;
  }
  if (kind === "disc") pen.arc(x, y, radius, 0, 2 * Math.PI);
  else if (kind === "square") pen.rect(x - radius, y - radius, 2 * radius, 2 * radius);
  else points.forEach(([px, py], index) => (index ? pen.lineTo(px, py) : pen.moveTo(px, py)));
  if (kind === "polygon") pen.closePath();
  if (fill) {
    pen.fillStyle = fill;
    pen.fill();
  }
  if (stroke) {
    pen.strokeStyle = stroke;
    pen.lineWidth = thickness;
    pen.stroke();
  }
}

/** Put RGBA pixels on a canvas, each one `factor` pixels wide, and return the canvas' pen. */
export function drawPixels(canvas, { height, width, pixels }, factor = 1) {
  if (canvas.width !== factor * width) canvas.width = factor * width;
  if (canvas.height !== factor * height) canvas.height = factor * height;
  const image = new ImageData(pixels, width, height);
  const pen = canvas.getContext("2d");
  pen.setTransform(1, 0, 0, 1, 0, 0);
  if (factor === 1) {
    pen.putImageData(image, 0, 0);
  } else {
    const small = element("canvas", { width, height });
    small.getContext("2d").putImageData(image, 0, 0);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(small, 0, 0, canvas.width, canvas.height);
  }
  return pen;
}

function drawPanel(canvas, panel) {
  const sharp = panel.marks?.length ? SHARPNESS : 1;
  const pen = drawPixels(canvas, panel, sharp);
  pen.scale(sharp, sharp);
  for (const mark of panel.marks ?? []) drawMark(pen, mark);
}

/**
 * Put an explorer into `host`: {title, controls, legend, brush, start}, and `respond` that thinks for it.
 *
 * start  {values, answer}: where the controls begin, and what is shown then; without it `respond` is asked
 *
 * Returns {root, show(answer), say(state, words)}.
 */
export function mount(host, { title, controls: specs, legend: names, brush: paintable, start }, respond) {
  const root = element("section", { className: "ep-explorer" });
  root.setAttribute("aria-label", title);
  root.addEventListener("keydown", (event) => event.stopPropagation());
  const words = element("p", { className: "ep-words" });
  words.setAttribute("role", "status");
  const problem = element("p", { className: "ep-problem" });
  problem.setAttribute("role", "alert");
  const panels = element("div", { className: "ep-panels" });
  const bar = element("div", { className: "ep-controls" });
  root.append(element("p", { className: "ep-title", textContent: title }), bar, problem, panels, legendOf(names), words);
  host.append(root);

  const controls = {};
  let waiting = null; // what is asked when the answer that is awaited has come
  let busy = false;
  let draws = 0;
  const shown = []; // the panels

  const values = () =>
    Object.fromEntries(
      Object.entries(controls)
        .filter(([, one]) => one.read)
        .map(([name, one]) => [name, one.read()]),
    );

  function say(state, text) {
    root.dataset.state = state;
    problem.textContent = text;
  }

  function place(index) {
    if (panels.children[index]) return panels.children[index];
    const canvas = element("canvas");
    canvas.setAttribute("role", "img");
    canvas.dataset.panel = index;
    const frame = element("div", { className: "ep-frame" }, canvas);
    if (index === paintable) {
      const cursor = element("span", { className: "ep-cursor", hidden: true });
      frame.append(cursor);
      canvas.tabIndex = 0;
      canvas.classList.add("ep-paintable");
      brush(canvas, cursor, () => shown[index], (points) => ask(null, points));
    }
    const figure = element("figure", {}, element("figcaption"), frame);
    panels.append(figure);
    return figure;
  }

  function show(answer) {
    for (const [name, value] of Object.entries(answer.values ?? {})) controls[name].write(value);
    if (answer.panels.length) {
      answer.panels.forEach((panel, index) => {
        const figure = place(index);
        const canvas = figure.querySelector("canvas");
        shown[index] = panel;
        figure.classList.toggle("ep-detailed", Boolean(panel.marks?.length));
        drawPanel(canvas, panel);
        canvas.style.width = `${panel.width * panel.zoom}px`;
        canvas.setAttribute("aria-label", `${panel.caption}: ${panel.words}`);
        figure.querySelector("figcaption").textContent = panel.caption;
      });
      while (panels.children.length > answer.panels.length) panels.lastChild.remove();
      words.textContent = answer.words;
    }
    say(answer.problem ? "problem" : "ok", answer.problem ?? "");
    root.dataset.draws = ++draws;
  }

  function take(answer, since) {
    show(waiting ? { ...answer, values: {} } : answer); // else the controls have moved on
    root.dataset.lastMoveMs = performance.now() - since;
  }

  const failed = (error) => (error.silent ? say("silent", error.message) : fail(error));
  const fail = (error) => show({ panels: [], words: "", values: {}, problem: error.message });

  function go() {
    const { since, points, pressed, file } = waiting;
    waiting = null;
    try {
      const answer = respond({ values: values(), pressed, points, file });
      if (!answer.then) return take(answer, since);
      busy = true;
      answer
        .then((given) => take(given, since), failed)
        .finally(() => {
          busy = false;
          if (waiting) go();
        });
    } catch (error) {
      fail(error);
    }
  }

  function ask(pressed, points = [], file = null) {
    if (pressed instanceof Error) return fail(pressed);
    waiting ??= { since: performance.now(), points: [], pressed: null, file: null };
    waiting.file = file ?? waiting.file;
    waiting.points.push(...points);
    waiting.pressed = pressed ?? waiting.pressed;
    if (!busy) go();
  }

  const prefix = `ep-${Math.random().toString(36).slice(2)}`;
  for (const spec of specs) {
    controls[spec.name] = control(spec, `${prefix}-${spec.name}`, ask);
    controls[spec.name].write?.(spec.value);
    const { node } = controls[spec.name];
    if (spec.kind !== "button") bar.append(node);
    else if (bar.lastChild?.className === "ep-buttons") bar.lastChild.append(node);
    else bar.append(element("div", { className: "ep-buttons" }, node));
  }
  const { take: takeFiles } = Object.values(controls).find((one) => one.take) ?? {};
  if (takeFiles) {
    root.addEventListener("dragover", (event) => event.preventDefault());
    root.addEventListener("drop", (event) => {
      event.preventDefault(); // else the browser leaves the page for the picture
      takeFiles(event.dataTransfer.files);
    });
  }
  if (start) show(start);
  else ask(null);
  return { root, show, say };
}

/** The widget of an explorer that thinks in the page: {open, render}. */
export function local(open) {
  return {
    open,
    render({ model, el }) {
      const spec = Object.fromEntries(["title", "controls", "legend", "brush"].map((name) => [name, model.get(name)]));
      mount(el, spec, open(model.get("data")));
    },
  };
}
