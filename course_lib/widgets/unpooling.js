// Unpooling by indices beside plain upsampling. The arithmetic is that of `unpooling_view` in upsampling.py.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { enlarged, fixed, heat, outlined, singles } from "./drawing.js";

const PANEL = 176; // pixels that a panel is wide, at most

/** 2x2 maxima of a map {values, height, width}, each with its place in the map as `indices`; the first one counts. */
export function pool({ values, height, width }) {
  const [h, w] = [Math.ceil(height / 2), Math.ceil(width / 2)];
  const [maxima, indices] = [new Float32Array(h * w).fill(-Infinity), new Int32Array(h * w)];
  for (let y = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      const [cell, at] = [(y >> 1) * w + (x >> 1), y * width + x];
      if (values[at] > maxima[cell]) [maxima[cell], indices[cell]] = [values[at], at];
    }
  return { values: maxima, indices, height: h, width: w };
}

/** Each value at its place in a map of that size, zeros elsewhere. */
export function unpool(values, indices, height, width) {
  const found = new Float32Array(height * width);
  values.forEach((value, cell) => (found[indices[cell]] = value));
  return found;
}

/** A map enlarged `factor` times, each value written on all of its block. */
export function nearest({ values, height, width }, factor) {
  return Float32Array.from({ length: height * width * factor ** 2 }, (_, at) => {
    const [y, x] = [Math.floor(at / (width * factor)), at % (width * factor)];
    return values[Math.floor(y / factor) * width + Math.floor(x / factor)];
  });
}

/** A map enlarged `factor` times by bilinear interpolation between the middles of its cells. */
export function bilinear({ values, height, width }, factor) {
  const line = (length) =>
    Array.from({ length: length * factor }, (_, at) => {
      const place = Math.max(0, (at + 0.5) / factor - 0.5);
      const below = Math.min(Math.floor(place), length - 1);
      return { below, above: Math.min(below + 1, length - 1), share: place - below };
    });
  const [down, across] = [line(height), line(width)];
  const found = new Float32Array(down.length * across.length);
  down.forEach((y, row) =>
    across.forEach((x, column) => {
      const mix = (at) => values[at * width + x.below] * (1 - x.share) + values[at * width + x.above] * x.share;
      found[row * across.length + column] = mix(y.below) * (1 - y.share) + mix(y.above) * y.share;
    }),
  );
  return found;
}

/** The whole number next to it, as Python rounds. */
function rounded(value) {
  return Number(fixed(value, 0));
}

/** Picture, maxima and three ways back for {poolings, row, column}; the picture is {values, height, width}. */
export function view(picture, gray, { poolings, row, column }) {
  const { height, width } = picture;
  const factor = 2 ** poolings;
  const levels = [picture];
  for (let level = 0; level < poolings; level++) levels.push(pool(levels[level]));
  const pooled = levels[poolings];
  let back = pooled.values;
  for (let level = poolings; level > 0; level--)
    back = unpool(back, levels[level].indices, levels[level - 1].height, levels[level - 1].width);
  const [r, c] = [rounded(row * (pooled.height - 1)), rounded(column * (pooled.width - 1))];
  const block = Array.from({ length: factor ** 2 }, (_, at) => (r * factor + Math.floor(at / factor)) * width + c * factor + (at % factor));
  const place = block.reduce((best, at) => (picture.values[at] > picture.values[best] ? at : best));
  const [y, x] = [Math.floor(place / width), place % width];
  const side = Math.max(1, Math.floor(PANEL / width));
  const whole = side * factor;
  const cell = [r, c, r + 1, c + 1].map((at) => at * whole);
  const panel = (caption, values, h, w, size, words) => ({
    caption,
    words,
    zoom: 1,
    ...outlined(enlarged(heat(values, h, w, 0, 1, gray), size), [cell]),
  });
  const value = pooled.values[r * pooled.width + c];
  const ways = [
    ["unpooled by indices", back],
    ["nearest", nearest(pooled, factor)],
    ["bilinear", bilinear(pooled, factor)],
  ];
  const mean = (values) => block.reduce((sum, at) => sum + values[at], 0) / block.length;
  return {
    panels: [
      panel("image", picture.values, height, width, side, `the maximum of the framed block is at (${y}, ${x})`),
      panel(`maxima of ${factor}x${factor}`, pooled.values, pooled.height, pooled.width, whole, `the framed cell holds ${fixed(value, 2)}`),
      ...ways.map(([name, values]) =>
        panel(name, values, height, width, side,
          `${fixed(values[place], 2)} at (${y}, ${x}), mean ${fixed(mean(values), 2)} in the frame`)),
    ],
    words:
      `The framed cell holds ${fixed(value, 2)}, found at row ${y}, column ${x}. By its index it returns exactly ` +
      `there, and the other ${factor ** 2 - 1} pixels of the block stay 0 for a convolution to fill. Nearest writes ` +
      `it on all ${factor ** 2}; bilinear mixes it with its neighbours, to ${fixed(ways[2][1][place], 2)} at that pixel.`,
  };
}

const widget = local((data) => {
  const [height, width] = data.size;
  const picture = { values: singles(bytesOf(data.picture)), height, width };
  const gray = bytesOf(data.gray);
  return ({ values }) => view(picture, gray, values);
});

export { widget as default };
