// The receptive-field explorer: its arithmetic, its drawing and its page, with no kernel behind it.
// The arithmetic is that of course_lib/receptive_field.py; a test holds the two equal.

import { arrowStep, choice, drawPixels, element, legendOf, pointAt, slider } from "./explorer.js";

export const LIMITS = {
  times: [1, 50],
  kernel: [1, 31],
  stride: [1, 8],
  dilation: [1, 64],
  padding: [0, 256],
  channels: [1, 4096],
};
export const MOST_LAYERS = 120;
export const LARGEST_FIELD = 2048;
export const MOST_UPSAMPLING = 64;
const ZOOM = 97; // pixels of the field that the magnified view shows at most
const NAMES = { conv: "convolution", pool: "pooling", up: "upsampling" };

// -- arithmetic ---------------------------------------------------------------------------------------

/** The padding of a row whose own is null: the map keeps its size where stride and kernel allow it. */
export function samePadding(row) {
  return Math.floor((row.dilation * (row.kernel - 1)) / 2);
}

/** One entry per layer, for rows that say `times`. */
export function flatten(rows) {
  return rows.flatMap((row, index) =>
    Array.from({ length: row.times }, () => ({
      ...row,
      padding: row.padding ?? samePadding(row),
      row: index,
    })),
  );
}

/**
 * [{size, jump, start}] after each layer: the recurrence of `stack`. Behind an upsampling (by its stride) the
 * cells differ, and the largest field counts.
 */
export function stack(layers) {
  let [size, jump, start, factor] = [1, 1, 0, 1];
  return layers.map((layer, index) => {
    if (layer.kind === "up") {
      jump /= layer.stride;
      factor *= layer.stride;
    } else {
      const reach = layer.dilation * (layer.kernel - 1);
      size += reach * jump;
      start += (reach / 2 - layer.padding) * jump;
      jump *= layer.stride;
    }
    if (factor === 1) return { size, jump, start };
    const spans = Array.from({ length: factor }, (_, cell) => span(layers.slice(0, index + 1), cell));
    const sizes = spans.map(([first, last]) => last - first + 1);
    return { size: Math.max(...sizes), jump, start: (spans[0][0] + spans[0][1]) / 2 };
  });
}

/** First and last pixel that a cell of the last map depends on, whether the picture has them or not. */
export function span(layers, cell) {
  let [low, high] = [cell, cell];
  for (const layer of [...layers].reverse()) {
    if (layer.kind === "up") {
      low = Math.floor(low / layer.stride);
      high = Math.floor(high / layer.stride);
    } else {
      low = low * layer.stride - layer.padding;
      high = high * layer.stride - layer.padding + layer.dilation * (layer.kernel - 1);
    }
  }
  return [low, high];
}

/** Cells along one axis, of the picture and of every layer's map; below 1 where a layer does not fit. */
export function mapLengths(layers, length) {
  const lengths = [length];
  for (const layer of layers) {
    const before = lengths[lengths.length - 1];
    const reach = layer.dilation * (layer.kernel - 1) + 1;
    lengths.push(
      layer.kind === "up"
        ? before * layer.stride
        : Math.floor((before + 2 * layer.padding - reach) / layer.stride) + 1,
    );
  }
  return lengths;
}

/**
 * In how many ways pixels reach one cell along one axis, exactly: {first pixel, counts as BigInt}.
 * With `lengths` of the maps a path that leaves a map ends in its padding; with null there are no borders.
 */
export function pathCounts(layers, cell, lengths) {
  let [first, counts] = [cell, [1n]];
  for (let number = layers.length - 1; number >= 0; number--) {
    const { kind, kernel, stride, padding, dilation } = layers[number];
    let low, before;
    if (kind === "up") {
      low = Math.floor(first / stride);
      before = new Array(Math.floor((first + counts.length - 1) / stride) - low + 1).fill(0n);
      counts.forEach((paths, place) => (before[Math.floor((first + place) / stride) - low] += paths));
    } else {
      low = first * stride - padding;
      before = new Array((counts.length - 1) * stride + dilation * (kernel - 1) + 1).fill(0n);
      counts.forEach((paths, place) => {
        if (paths === 0n) return;
        for (let tap = 0; tap < kernel; tap++) before[place * stride + tap * dilation] += paths;
      });
    }
    if (lengths) {
      const start = Math.max(0, -low);
      before = before.slice(start, Math.max(start, lengths[number] - low));
      low += start;
    }
    if (!before.length) return { first: 0, counts: [] };
    [first, counts] = [low, before];
  }
  return { first, counts };
}

/** Weights and biases of all convolutions; upsampling is a transposed one as wide as its stride. */
export function countParameters(layers, inputs = 3) {
  let [total, before] = [0, inputs];
  for (const layer of layers) {
    if (layer.kind === "pool") continue;
    const side = layer.kind === "up" ? layer.stride : layer.kernel;
    total += before * layer.channels * side * side + layer.channels;
    before = layer.channels;
  }
  return total;
}

/** Standard deviation of path counts: how far the weight of the field spreads, in pixels. */
export function spread(counts) {
  const weights = counts.map(Number);
  const total = weights.reduce((a, b) => a + b, 0);
  const mean = weights.reduce((a, w, i) => a + w * i, 0) / total;
  return Math.sqrt(weights.reduce((a, w, i) => a + w * (i - mean) ** 2, 0) / total);
}

/** What is wrong with rows on a picture of this size: [{row, name, text}], in words; empty where all is well. */
export function problems(rows, height, width) {
  if (!rows.length) return [{ row: -1, name: "", text: "The stack is empty: add a layer." }];
  const found = [];
  rows.forEach((row, index) => {
    for (const [name, [least, most]] of Object.entries(LIMITS)) {
      const value = row[name];
      if (name === "padding" && value === null) continue;
      if (!Number.isInteger(value) || value < least || value > most) {
        const shown = value === null || Number.isNaN(value) ? "empty" : value;
        const text = `Row ${index + 1}: ${name} is ${shown}; it is a whole number from ${least} to ${most}.`;
        found.push({ row: index, name, text });
      }
    }
  });
  if (found.length) return found;
  const layers = flatten(rows);
  if (layers.length > MOST_LAYERS)
    return [{ row: -1, name: "times", text: `${layers.length} layers are too many: at most ${MOST_LAYERS}.` }];
  const factor = layers.reduce((all, { kind, stride }) => (kind === "up" ? all * stride : all), 1);
  if (factor > MOST_UPSAMPLING)
    return [{ row: -1, name: "stride", text: `Upsampling by ${factor} altogether is more than ${MOST_UPSAMPLING}.` }];
  for (const [axis, side] of [["high", height], ["wide", width]]) {
    const lengths = mapLengths(layers, side);
    const bad = lengths.findIndex((cells) => cells < 1);
    if (bad > 0) {
      const { row, kernel, dilation } = layers[bad - 1];
      const reach = dilation * (kernel - 1) + 1;
      const text =
        `Row ${row + 1} reads ${reach} cells at once, but the map before it is only ${lengths[bad - 1]} ${axis}: ` +
        "give it more padding, or take fewer strides before it.";
      return [{ row, name: "kernel", text }];
    }
    if (Math.max(...lengths) > 4096)
      return [{ row: -1, name: "stride", text: `A map is more than 4,096 cells ${axis}: upsample less.` }];
  }
  const large = stack(layers).findIndex((field) => field.size > LARGEST_FIELD);
  if (large >= 0) {
    const { row } = layers[large];
    const text =
      `In row ${row + 1} the field grows beyond ${grouped(LARGEST_FIELD)} pixels, many times the image: ` +
      "take fewer layers, strides or dilations.";
    return [{ row, name: "kernel", text }];
  }
  return [];
}

/**
 * Everything that is shown of a stack on a picture: numbers, and the path counts of one unit.
 * cell  [row, column] in the last map; it is moved into the map; null takes the middle one
 */
export function describe(rows, height, width, cell = null, inputs = 3) {
  const layers = flatten(rows);
  const fields = stack(layers);
  const field = fields[fields.length - 1];
  const lengths = [mapLengths(layers, height), mapLengths(layers, width)];
  const map = lengths.map((all) => all[all.length - 1]);
  const unit = map.map((cells, axis) =>
    Math.min(Math.max(cell ? cell[axis] : Math.floor(cells / 2), 0), cells - 1),
  );
  const spans = unit.map((place) => span(layers, place));
  const [counts, free] = [lengths, [null, null]].map((bounds) =>
    unit.map((place, axis) => pathCounts(layers, place, bounds[axis])),
  );
  const onPicture = counts.map(({ first, counts: some }, axis) => {
    const all = new Array([height, width][axis]).fill(0n);
    some.forEach((paths, index) => (all[first + index] = paths));
    return all;
  });
  const readShare = free
    .map((axis) => axis.counts.filter((paths) => paths > 0n).length / axis.counts.length)
    .reduce((a, b) => a * b);
  return {
    ...field,
    parameters: countParameters(layers, inputs),
    layers,
    map,
    cell: unit,
    spans,
    counts: onPicture,
    free,
    readShare,
    deviation: spread(free[1].counts),
    most: largest(onPicture[0]) * largest(onPicture[1]),
    larger: field.size > Math.min(height, width),
  };
}

function largest(counts) {
  return counts.reduce((a, b) => (b > a ? b : a), 0n);
}

// -- pixels -------------------------------------------------------------------------------------------

/** 256 colours between the given ones, as a flat array of bytes. */
export function colourTable(anchors) {
  const table = new Uint8ClampedArray(256 * 3);
  for (let index = 0; index < 256; index++) {
    const place = (index / 255) * (anchors.length - 1);
    const below = Math.min(Math.floor(place), anchors.length - 2);
    for (let channel = 0; channel < 3; channel++) {
      const [a, b] = [anchors[below][channel], anchors[below + 1][channel]];
      table[3 * index + channel] = Math.floor(a + (b - a) * (place - below) + 0.5);
    }
  }
  return table;
}

/**
 * Values along one axis whose sum (paths) or product (weight) gives a pixel's value from 0 to 1, and -1 where
 * no path begins. Paths: logarithms as shares of the largest; weight: counts as shares of the largest.
 */
function scaled(counts, mode) {
  const numbers = counts.map(Number);
  const most = Math.max(...numbers, 1);
  return Float64Array.from(numbers, (n) =>
    n === 0 ? -1 : mode === "paths" ? Math.log(n) : n / most,
  );
}

/** The index of a pixel's colour in the table, from the values of its row and its column. */
function shade(down, across, mode) {
  const most = down.reduce((a, b) => Math.max(a, b), 0) + across.reduce((a, b) => Math.max(a, b), 0);
  if (mode === "weight") return (a, b) => 3 * Math.floor(a * b * 255 + 0.5);
  return most > 0 ? (a, b) => 3 * Math.floor(((a + b) / most) * 255 + 0.5) : () => 3 * 255;
}

/**
 * RGBA bytes of the picture under its field: pixels with a path are coloured, the others grey.
 * picture  RGB bytes, height x width x 3;  counts  paths along the rows and columns
 */
export function paint(picture, height, width, counts, mode, table) {
  const pixels = new Uint8ClampedArray(height * width * 4);
  const [down, across] = counts.map((axis) => scaled(axis, mode));
  const colour = shade(down, across, mode);
  for (let y = 0, source = 0, target = 0; y < height; y++) {
    for (let x = 0; x < width; x++, source += 3, target += 4) {
      const r = picture[source];
      const g = picture[source + 1];
      const b = picture[source + 2];
      const grey = 0.299 * r + 0.587 * g + 0.114 * b;
      if (down[y] >= 0 && across[x] >= 0) {
        const light = 0.3 * grey;
        const index = colour(down[y], across[x]);
        pixels[target] = Math.floor(0.7 * table[index] + light + 0.5);
        pixels[target + 1] = Math.floor(0.7 * table[index + 1] + light + 0.5);
        pixels[target + 2] = Math.floor(0.7 * table[index + 2] + light + 0.5);
      } else {
        pixels[target] = pixels[target + 1] = pixels[target + 2] = Math.floor(0.35 * grey + 130.5);
      }
      pixels[target + 3] = 255;
    }
  }
  return pixels;
}

/** The middle of the field, magnified: {pixels, height, width, top, left}; white is read by no path. */
export function paintZoom(found, height, width, mode, table) {
  const windows = found.free.map(({ first, counts }) => {
    const length = Math.min(counts.length, ZOOM);
    return { start: first + Math.floor((counts.length - length) / 2), length };
  });
  const [rows, columns] = windows;
  const [down, across] = found.counts.map((axis) => scaled(axis, mode));
  const colour = shade(down, across, mode);
  const pixels = new Uint8ClampedArray(rows.length * columns.length * 4).fill(255);
  for (let i = 0, target = 0; i < rows.length; i++) {
    for (let j = 0; j < columns.length; j++, target += 4) {
      const y = rows.start + i;
      const x = columns.start + j;
      if (y < 0 || x < 0 || y >= height || x >= width) {
        const grey = (y + x) & 2 ? 150 : 178; // padding, hatched
        pixels[target] = pixels[target + 1] = pixels[target + 2] = grey;
      } else if (down[y] >= 0 && across[x] >= 0) {
        const index = colour(down[y], across[x]);
        pixels[target] = table[index];
        pixels[target + 1] = table[index + 1];
        pixels[target + 2] = table[index + 2];
      }
    }
  }
  return { pixels, height: rows.length, width: columns.length, top: rows.start, left: columns.start };
}

// -- words --------------------------------------------------------------------------------------------

export function grouped(number) {
  return number.toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",");
}

/** A count in few characters: 19,683 or 8.2 × 10^17. */
export function short(count) {
  if (count < 10n ** 9n) return grouped(count);
  const digits = count.toString();
  return `${digits[0]}.${digits[1]} × 10^${digits.length - 1}`;
}

function times(a, b = a) {
  return `${grouped(a)} × ${grouped(b)}`;
}

function inWords(found, height, width) {
  const [[top, bottom], [left, right]] = found.spans;
  return (
    `The image, ${height} by ${width} pixels, with the receptive field of the unit in row ${found.cell[0]}, ` +
    `column ${found.cell[1]} of a map of ${found.map[0]} by ${found.map[1]} units: ` +
    `${bottom - top + 1} by ${right - left + 1} pixels, rows ${top} to ${bottom}, columns ${left} to ${right}. ` +
    `${percent(found.readShare)} of its pixels are read, by up to ${short(found.most)} paths each; ` +
    `four standard deviations of the paths are ${(4 * found.deviation).toFixed(1)} pixels.`
  );
}

function percent(share) {
  return `${share > 0.995 && share < 1 ? 99 : Math.round(100 * share)} %`;
}

function layerWords(row) {
  if (row.kind === "up") return `upsampling by ${row.stride}`;
  return `${NAMES[row.kind]} ${row.kernel}x${row.kernel}, stride ${row.stride}, dilation ${row.dilation}`;
}

// -- the page -----------------------------------------------------------------------------------------

/** An element with a class, attributes and what is in it. */
function part(tag, className, attributes = {}, ...children) {
  const node = element(tag, {}, ...children);
  if (className) node.className = className;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const COLUMNS = [
  ["times", "times", "how often the layer is repeated"],
  ["kernel", "kernel", "side of the kernel"],
  ["stride", "stride", "stride; the factor of an upsampling"],
  ["dilation", "dilation", "distance of the kernel's samples"],
  ["padding", "padding", "cells added on each side; empty keeps the size of the map"],
  ["channels", "maps", "output maps of a convolution"],
];
const UNUSED = { pool: ["channels"], up: ["kernel", "dilation", "padding"] };

/**
 * Put an explorer into `host`.
 *
 * options  picture {pixels: RGB bytes, height, width}, presets {name: {title, about, inputs, layers}}, colours [[r, g, b]],
 *          preset, layers and inputs (maps below the stack; both of the preset where absent), cell, mode "paths" or "weight", onChange(state)
 *
 * Returns {root, state, set(changes), pixels(), found()}; the root's data-* attributes hold the numbers shown.
 */
export function mountField(host, options) {
  const { picture, presets, colours, onChange = () => {} } = options;
  const { height, width } = picture;
  const table = colourTable(colours);
  const state = {
    preset: options.preset,
    layers: structuredClone(options.layers ?? presets[options.preset].layers),
    inputs: options.inputs ?? presets[options.preset]?.inputs ?? 3,
    cell: options.cell?.length ? [...options.cell] : null,
    mode: options.mode ?? "paths",
    probe: null, // a pixel [row, column]
  };
  let found = null;

  // what is there
  const prefix = `ep-${Math.random().toString(36).slice(2)}`;
  const marked = (control, className) => {
    control.input.className = className;
    return control;
  };
  const stacks = [...Object.entries(presets).map(([name, { title }]) => [name, title]), ["", "your own stack"]];
  const preset = marked(choice({ name: "preset", label: "Stack", options: stacks }, `${prefix}-preset`, choosePreset), "ep-preset");
  const meanings = [["paths", "number of paths (log scale)"], ["weight", "effective field: share of the paths"]];
  const mode = marked(
    choice({ name: "mode", label: "Colours show", options: meanings }, `${prefix}-mode`, () => set({ mode: mode.read() })),
    "ep-mode",
  );
  const about = part("p", "ep-about");
  const message = part("p", "ep-message", { role: "status", "aria-live": "polite" });
  const canvas = part("canvas", "ep-picture", { role: "img", tabindex: "0" });
  const zoom = part("canvas", "ep-zoom", { role: "img", tabindex: "0" });
  const zoomTitle = part("span", "ep-zoom-title");
  const said = (place, places) => `${place} of 0 to ${places.length - 1}`;
  const [row, column] = ["row", "column"].map((name, axis) =>
    marked(
      slider({ name, label: name, stops: [0], said }, `${prefix}-${name}`, () =>
        set({ cell: found.cell.map((place, other) => (other === axis ? [row, column][axis].read() : place)) })),
      `ep-${name}`,
    ));
  const probe = part("p", "ep-probe", { role: "status", "aria-live": "polite" });
  const scale = part("div", "ep-scale");
  const stops = Array.from({ length: 9 }, (_, i) => table.slice(3 * Math.round(i * 31.875), 3 * Math.round(i * 31.875) + 3));
  const bar = part("span", "ep-bar-colours", { "aria-hidden": "true" });
  bar.style.background = `linear-gradient(to right, ${stops.map((s) => `rgb(${s.join(",")})`).join(", ")})`;
  const [least, most] = [part("span"), part("span")];
  scale.append(least, bar, most, legendOf([["not read", "#ffffff"]]));
  const numbers = part("dl", "ep-numbers");
  const profile = part("div", "ep-profile");
  const lines = legendOf([
    ["theoretical field", null, "ep-line"],
    ["four standard deviations of the paths", null, "ep-line ep-line-effective"],
  ]);
  const key = legendOf([
    ["can see (theoretical)", null, "ep-key-box"],
    ["share of the paths", null, "ep-key-bars"],
    ["normal curve of that spread", null, "ep-key-curve"],
  ]);
  for (const legend of [lines, key]) legend.setAttribute("aria-hidden", "true");
  const body = part("tbody");
  const add = part("button", "ep-add", { type: "button" }, "Add a layer");
  const heads = ["", "layer", ...COLUMNS.map(([, title]) => title), "field", ""];
  const layersTable = part("table", "ep-layers", {},
    part("caption", "", {}, "The stack, from the image upwards"),
    part("thead", "", {}, part("tr", "", {}, ...heads.map((head) => part("th", "", { scope: "col" }, head)))),
    body);
  const root = part("div", "ep-field-explorer", { role: "group", "aria-label": "Receptive-field explorer" },
    part("div", "ep-bar", {},
      preset.node,
      mode.node),
    about,
    message,
    part("div", "ep-views", {},
      part("figure", "ep-picture-view", {},
        part("figcaption", "", {}, "On the image: click, or move the unit with the arrow keys"),
        canvas,
        lines,
        part("div", "ep-sliders", {}, row.node, column.node)),
      part("figure", "ep-zoom-view", {},
        part("figcaption", "", {}, zoomTitle), zoom, scale, probe)),
    part("div", "ep-lower", {},
      part("figure", "ep-profile-view", {},
        part("figcaption", "", {}, "Through the middle: what the unit can see, and what counts"),
        profile,
        key),
      numbers),
    part("div", "ep-stack", {}, layersTable),
    add);
  host.append(root);

  // what changes it
  const problemsNow = () => problems(state.layers, height, width);

  function edited() {
    state.preset = "";
    refresh();
  }

  /** The unit of the new map that looks at the same place as the one before. */
  function keepPlace(middle) {
    const layers = flatten(state.layers);
    const factor = stack(layers).at(-1);
    const map = [height, width].map((side) => mapLengths(layers, side).at(-1));
    state.cell = middle.map((pixel, axis) =>
      Math.min(Math.max(Math.round((pixel - factor.start) / factor.jump), 0), map[axis] - 1));
  }

  function refresh() {
    const started = performance.now();
    const wrong = problemsNow();
    root.dataset.state = wrong.length ? "error" : "ok";
    mark(wrong);
    if (wrong.length) {
      message.textContent = wrong.map(({ text }) => text).join(" ");
    } else {
      if (found && state.cell && signature(found.layers) !== signature(flatten(state.layers)))
        keepPlace(found.spans.map(([first, last]) => (first + last) / 2));
      found = describe(state.layers, height, width, state.cell, state.inputs);
      state.cell = found.cell;
      draw();
    }
    preset.write(state.preset);
    about.textContent = presets[state.preset]?.about ?? "";
    root.dataset.preset = state.preset;
    root.dataset.lastDrawMs = (performance.now() - started).toFixed(2);
    if (!wrong.length) onChange(state);
  }

  function draw() {
    const { dataset } = root;
    [row, column].forEach((one, axis) => {
      one.limit(Array.from({ length: found.map[axis] }, (_, place) => place));
      one.write(found.cell[axis]);
    });
    drawPicture();
    drawZoom();
    drawProfile(profile, found, state.mode);
    key.lastChild.style.display = state.mode === "weight" ? "" : "none";
    writeNumbers();
    least.textContent = state.mode === "paths" ? "1 path" : "0";
    most.textContent = state.mode === "paths" ? short(found.most) : "1 (the most)";
    message.textContent = found.larger
      ? `The field of ${grouped(found.size)} pixels is larger than the image (${height} × ${width}): what lies ` +
        "outside is padding."
      : "";
    if (found.larger) dataset.state = "notice";
    const words = inWords(found, height, width);
    canvas.setAttribute("aria-label", words);
    dataset.height = height;
    dataset.width = width;
    dataset.size = found.size;
    dataset.jump = found.jump;
    dataset.start = found.start;
    dataset.parameters = found.parameters;
    dataset.read = found.readShare;
    dataset.deviation = found.deviation;
    dataset.cell = found.cell.join(",");
    dataset.mode = state.mode;
    dataset.draws = Number(dataset.draws ?? 0) + 1;
    tell();
  }

  let [pixels, zoomed] = [null, null];

  function drawPicture() {
    pixels = paint(picture.pixels, height, width, found.counts, state.mode, table);
    const factor = Math.max(1, Math.round((640 / width) * Math.min(window.devicePixelRatio || 1, 2)));
    const pen = drawPixels(canvas, { height, width, pixels }, factor);
    const [[top, bottom], [left, right]] = found.spans;
    const unit = factor * Math.max(1, width / 256);
    outline(pen, [left, top, right - left + 1, bottom - top + 1].map((v) => v * factor), 0.8 * unit, "#ffffff", []);
    const middle = [(left + right + 1) / 2, (top + bottom + 1) / 2];
    const side = Math.min(4 * found.deviation, found.size);
    if (side > 2)
      outline(pen, [middle[0] - side / 2, middle[1] - side / 2, side, side].map((v) => v * factor), 0.8 * unit,
        "#ffb454", [3 * unit, 2 * unit]);
    pen.strokeStyle = "#ffffff";
    pen.lineWidth = 0.5 * unit;
    pen.beginPath();
    for (const [dx, dy] of [[2.5, 0], [0, 2.5]]) {
      pen.moveTo(middle[0] * factor - dx * unit, middle[1] * factor - dy * unit);
      pen.lineTo(middle[0] * factor + dx * unit, middle[1] * factor + dy * unit);
    }
    pen.stroke();
  }

  function drawZoom() {
    const middle = paintZoom(found, height, width, state.mode, table);
    const factor = Math.max(1, Math.floor(680 / Math.max(middle.width, middle.height)));
    const pen = drawPixels(zoom, middle, factor);
    if (factor >= 16) {
      pen.strokeStyle = "rgba(255, 255, 255, 0.55)";
      pen.lineWidth = 1;
      pen.beginPath();
      for (let i = 1; i < middle.width; i++) { pen.moveTo(i * factor, 0); pen.lineTo(i * factor, zoom.height); }
      for (let i = 1; i < middle.height; i++) { pen.moveTo(0, i * factor); pen.lineTo(zoom.width, i * factor); }
      pen.stroke();
    }
    if (state.probe) {
      const [y, x] = [state.probe[0] - middle.top, state.probe[1] - middle.left];
      if (y >= 0 && x >= 0 && y < middle.height && x < middle.width)
        outline(pen, [x * factor, y * factor, factor, factor], 3, "#d55e00", []);
    }
    zoomed = middle;
    const whole = middle.height === found.free[0].counts.length && middle.width === found.free[1].counts.length;
    zoomTitle.textContent = whole
      ? `Magnified: all ${times(middle.height, middle.width)} pixels of the field`
      : `Magnified: the middle ${times(middle.height, middle.width)} of ${times(found.free[0].counts.length, found.free[1].counts.length)} pixels`;
  }

  function writeNumbers() {
    const own = found.free.map(({ counts }) => counts.length);
    const largest = own.every((side) => side === found.size) ? "" : ` (up to ${grouped(found.size)})`;
    const entries = [
      ["theoretical field", `${times(...own)} pixels${largest}`],
      ["effective field (4 standard deviations)", `${(4 * found.deviation).toFixed(1)} pixels`],
      ["read by at least one path", `${percent(found.readShare)} of the field`],
      ["jump between units", `${Number(found.jump.toFixed(4))} pixel${found.jump === 1 ? "" : "s"}`],
      ["map of units", times(found.map[0], found.map[1])],
      ["parameters", grouped(found.parameters)],
    ];
    numbers.replaceChildren(
      ...entries.map(([name, value]) =>
        part("div", "", {}, part("dt", "", {}, name), part("dd", "", {}, value))));
  }

  function tell() {
    const [y, x] = state.probe ?? [];
    const hint = "Point at a pixel, or move over the magnified field with the arrow keys, to count its paths.";
    let words = hint;
    if (state.probe && y >= 0 && x >= 0 && y < height && x < width) {
      const paths = found.counts[0][y] * found.counts[1][x];
      words = `Pixel (${y}, ${x}): ${paths === 0n ? "no path" : paths === 1n ? "1 path" : `${grouped(paths)} paths`} to the unit.`;
    } else if (state.probe) {
      words = `(${y}, ${x}) lies outside the image: padding.`;
    }
    probe.textContent = words;
    zoom.setAttribute("aria-label", `${zoomTitle.textContent}. ${state.probe ? words : hint}`);
  }

  // the stack
  function mark(wrong) {
    body.querySelectorAll("input").forEach((input) => {
      const bad = wrong.some(({ row: r, name }) => r === Number(input.dataset.row) && name === input.dataset.name);
      input.setAttribute("aria-invalid", bad);
    });
    const fields = wrong.length ? [] : stack(flatten(state.layers));
    let last = 0;
    body.querySelectorAll(".ep-field").forEach((cell, index) => {
      last += state.layers[index]?.times ?? 0;
      cell.textContent = fields.length ? grouped(fields[last - 1].size) : "";
    });
  }

  function writeStack() {
    body.replaceChildren(
      ...state.layers.map((layer, index) => {
        const kind = part("select", "ep-kind", { "aria-label": `kind of row ${index + 1}`, "data-row": index });
        for (const [value, title] of Object.entries({ conv: "conv", pool: "pool", up: "up" }))
          kind.append(part("option", "", { value }, title));
        kind.value = layer.kind;
        kind.addEventListener("change", () => {
          layer.kind = kind.value;
          if (kind.value === "up" && layer.stride === 1) layer.stride = 2;
          writeStack();
          edited();
          body.querySelectorAll(".ep-kind")[index].focus();
        });
        const cells = COLUMNS.map(([name, title, help]) => {
          const [min, max] = LIMITS[name];
          const unused = (UNUSED[layer.kind] ?? []).includes(name);
          const input = part("input", `ep-${name}`, {
            type: "number", min, max, step: 1, title: help, "aria-label": `${title} of row ${index + 1}`,
            "data-row": index, "data-name": name,
          });
          input.disabled = unused;
          input.value = unused ? "" : (layer[name] ?? "");
          if (name === "padding") input.placeholder = "same";
          input.addEventListener("input", () => {
            const empty = input.value.trim() === "" && !input.validity.badInput;
            layer[name] = empty ? (name === "padding" ? null : NaN) : Number(input.value || NaN);
            edited();
          });
          return part("td", "", {}, input);
        });
        const remove = part("button", "ep-remove", {
          type: "button", "aria-label": `remove row ${index + 1}, ${layerWords(layer)}`, title: "remove",
        }, "×");
        remove.addEventListener("click", () => {
          state.layers.splice(index, 1);
          writeStack();
          edited();
          (body.querySelectorAll(".ep-remove")[Math.min(index, state.layers.length - 1)] ?? add).focus();
        });
        return part("tr", "", {},
          part("th", "", { scope: "row" }, String(index + 1)), part("td", "", {}, kind), ...cells,
          part("td", "ep-field"), part("td", "", {}, remove));
      }));
  }

  add.addEventListener("click", () => {
    const last = state.layers.at(-1) ?? { kind: "conv", kernel: 3, stride: 1, dilation: 1, padding: null, channels: 64 };
    const fresh = last.kind === "conv" ? { ...last, times: 1 } : { ...last, kind: "conv", kernel: 3, stride: 1, dilation: 1, padding: null, times: 1 };
    state.layers.push(fresh);
    writeStack();
    edited();
    body.lastElementChild.querySelector(".ep-kernel").focus();
  });
  function choosePreset() {
    if (!preset.read()) return refresh();
    set({ preset: preset.read() });
  }

  /** Key events with an arrow become steps; nothing else on the page may hear of them. */
  function onArrow(target, act) {
    target.addEventListener("keydown", (event) => {
      const step = arrowStep(event, 1, 8);
      if (!step) return;
      event.preventDefault();
      event.stopPropagation();
      act(step);
    });
  }

  onArrow(canvas, (step) => set({ cell: found.cell.map((place, axis) => place + step[axis]) }));
  onArrow(zoom, (step) => {
    const from = state.probe ?? found.spans.map(([first, last]) => Math.floor((first + last) / 2));
    const [y, x] = state.probe ? from.map((place, axis) => place + step[axis]) : from;
    state.probe = [
      Math.min(Math.max(y, zoomed.top), zoomed.top + zoomed.height - 1),
      Math.min(Math.max(x, zoomed.left), zoomed.left + zoomed.width - 1),
    ];
    drawZoom();
    tell();
  });

  const pointed = (event, target, size) => pointAt(event, target, size).map(Math.floor);

  canvas.addEventListener("click", (event) => {
    if (found.map[0] < 1) return;
    keepPlace(pointed(event, canvas, { height, width }));
    refresh();
  });
  canvas.addEventListener("pointermove", (event) => {
    state.probe = pointed(event, canvas, { height, width });
    drawZoom();
    tell();
  });
  zoom.addEventListener("pointermove", (event) => {
    const [y, x] = pointed(event, zoom, zoomed);
    state.probe = [y + zoomed.top, x + zoomed.left];
    drawZoom();
    tell();
  });
  for (const target of [canvas, zoom])
    target.addEventListener("pointerleave", () => {
      state.probe = null;
      drawZoom();
      tell();
    });
  // JupyterLab takes single letters and arrows of a focused cell for commands
  root.addEventListener("keydown", (event) => event.stopPropagation());

  function set(changes) {
    const named = presets[changes.preset];
    const layers = changes.layers ?? named?.layers;
    if (changes.preset !== undefined || changes.layers) state.preset = changes.preset ?? "";
    state.inputs = changes.inputs ?? named?.inputs ?? state.inputs;
    if (layers && JSON.stringify(layers) !== JSON.stringify(state.layers)) {
      state.layers = structuredClone(layers);
      writeStack();
    }
    if (changes.cell) state.cell = changes.cell.length ? [...changes.cell] : null;
    if (changes.mode) state.mode = changes.mode;
    mode.write(state.mode);
    refresh();
  }

  writeStack();
  mode.write(state.mode);
  refresh();
  const explorer = { root, state, set, pixels: () => pixels, found: () => found };
  root.epExplorer = explorer;
  return explorer;
}

/** A box with a dark rim, so that it is seen on every ground. */
function outline(pen, [x, y, w, h], thickness, colour, dashes) {
  pen.setLineDash([]);
  pen.strokeStyle = "rgba(0, 0, 0, 0.65)";
  pen.lineWidth = 2 * thickness;
  pen.strokeRect(x, y, w, h);
  pen.setLineDash(dashes);
  pen.strokeStyle = colour;
  pen.lineWidth = thickness;
  pen.strokeRect(x, y, w, h);
  pen.setLineDash([]);
}

/** The theoretical box, the share of the paths and, in the mode "weight", the normal curve of that spread: one SVG. */
function drawProfile(host, found, mode) {
  const { first, counts } = found.free[1];
  const weights = counts.map(Number);
  const [most, total] = [Math.max(...weights), weights.reduce((a, b) => a + b, 0)];
  const [wide, high, bottom, left] = [520, 150, 124, 8];
  const step = (wide - 2 * left) / weights.length;
  const deviation = mode === "weight" && found.deviation > 0.5 ? found.deviation : 0;
  const peak = deviation ? total / most / (deviation * Math.sqrt(2 * Math.PI)) : 0; // as much area as the bars
  const top = Math.max(1, peak);
  const y = (value) => (bottom - (value / top) * 104).toFixed(1);
  const mean = weights.reduce((a, w, i) => a + w * i, 0) / total;
  let bars = "";
  weights.forEach((weight, i) => {
    const x = left + i * step;
    bars += `M${x.toFixed(2)} ${bottom}V${y(weight / most)}h${step.toFixed(2)}V${bottom}Z`;
  });
  const curve = Array.from({ length: 121 }, (_, i) => {
    const place = (i / 120) * weights.length - 0.5;
    const value = peak * Math.exp(-((place - mean) ** 2) / (2 * deviation ** 2));
    return `${i ? "L" : "M"}${(left + (place + 0.5) * step).toFixed(1)} ${y(value)}`;
  }).join("");
  const label = (x, anchor, words) => `<text x="${x}" y="${bottom + 18}" text-anchor="${anchor}">${words}</text>`;
  const words =
    `Profile of the field: theoretically ${weights.length} pixels, from ${first} to ${first + weights.length - 1}; ` +
    `the share of the paths is highest in the middle and has a standard deviation of ${found.deviation.toFixed(1)} pixels.`;
  host.innerHTML =
    `<svg viewBox="0 0 ${wide} ${high}" role="img" aria-label="${words}">` +
    `<rect class="ep-box" x="${left}" y="${y(top)}" width="${wide - 2 * left}" height="104"/>` +
    `<path class="ep-bars" d="${bars}"/>` +
    (deviation ? `<path class="ep-curve" d="${curve}"/>` : "") +
    `<path class="ep-axis" d="M${left} ${bottom}H${wide - left}"/>` +
    label(left, "start", `pixel ${first}`) + label(wide / 2, "middle", `${weights.length} pixels`) +
    label(wide - left, "end", `pixel ${first + weights.length - 1}`) +
    "</svg>";
}

function signature(layers) {
  return JSON.stringify(layers.map(({ kind, kernel, stride, padding, dilation }) => [kind, kernel, stride, padding, dilation]));
}

/** Milliseconds from a move of the unit to the finished picture: the median of `moves` of them. */
export function measure(explorer, moves = 30) {
  const spent = [];
  for (let move = 0; move < moves; move++) {
    const { cell, map } = explorer.found();
    const started = performance.now();
    explorer.set({ cell: [(cell[0] + 1) % map[0], (cell[1] + (move % 2)) % map[1]] });
    spent.push(performance.now() - started);
  }
  return spent.sort((a, b) => a - b)[Math.floor(moves / 2)];
}

/** The picture behind an address, as `mountField` wants it. */
export async function readPicture(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const [height, width] = [image.naturalHeight, image.naturalWidth];
  const canvas = part("canvas", "", { width, height });
  const pen = canvas.getContext("2d");
  pen.drawImage(image, 0, 0);
  const rgba = pen.getImageData(0, 0, width, height).data;
  const pixels = new Uint8Array(height * width * 3);
  for (let i = 0, j = 0; i < rgba.length; i += 4) {
    pixels[j++] = rgba[i];
    pixels[j++] = rgba[i + 1];
    pixels[j++] = rgba[i + 2];
  }
  return { pixels, height, width };
}

// -- Jupyter ------------------------------------------------------------------------------------------

const FOLLOWED = ["preset", "layers", "inputs", "cell", "mode"];

function render({ model, el }) {
  const bytes = model.get("picture");
  const [height, width] = model.get("picture_size");
  let [telling, listening] = [false, false]; // nothing is sent back before the first move
  const explorer = mountField(el, {
    picture: { pixels: new Uint8Array(bytes.buffer, bytes.byteOffset, bytes.byteLength), height, width },
    presets: model.get("presets"),
    colours: model.get("colours"),
    preset: model.get("preset"),
    inputs: model.get("inputs"),
    layers: model.get("layers"),
    cell: model.get("cell"),
    mode: model.get("mode"),
    onChange({ preset, layers, inputs, cell, mode }) {
      if (telling || !listening) return;
      telling = true;
      try {
        model.set({ preset, inputs, layers: structuredClone(layers), cell: [...cell], mode });
        model.save_changes();
      } catch {
        // the kernel is gone; the explorer goes on without it
      }
      telling = false;
    },
  });
  listening = true;
  const follow = () => {
    if (telling) return;
    telling = true;
    const now = Object.fromEntries(FOLLOWED.map((name) => [name, model.get(name)]));
    explorer.set(now);
    telling = false;
  };
  const events = FOLLOWED.map((name) => `change:${name}`);
  for (const event of events) model.on(event, follow);
  return () => events.forEach((event) => model.off(event, follow));
}

const widget = { render };

export { widget as default };
