// Paint a prediction and watch what each metric makes of it. The arithmetic is that of metrics.py.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { cells, colourise, coloursOf, discs, errorMap, fixed, headed, IGNORE } from "./drawing.js";

const [MATRIX, HEAD] = [300, 18]; // pixels that the matrix is wide, at most, and of the colours around it

/** counts[i * classes + j]: pixels of true class i and predicted class j. */
export function confusion(prediction, labels, classes) {
  const counts = new Int32Array(classes * classes);
  labels.forEach((label, at) => {
    if (label !== IGNORE) counts[label * classes + prediction[at]]++;
  });
  return counts;
}

/** OP, PC, mIoU and frequency-weighted IoU of a matrix, and the IoU of each class (NaN where it is nowhere). */
export function metrics(counts, classes) {
  const all = Array.from({ length: classes }, (_, index) => index);
  const hits = all.map((i) => counts[i * classes + i]);
  const truth = all.map((i) => all.reduce((sum, j) => sum + counts[i * classes + j], 0));
  const predicted = all.map((j) => all.reduce((sum, i) => sum + counts[i * classes + j], 0));
  const ious = all.map((i) => hits[i] / (truth[i] + predicted[i] - hits[i]));
  const mean = (values) => {
    const known = values.filter((value) => !Number.isNaN(value));
    return known.reduce((a, b) => a + b, 0) / known.length;
  };
  const total = truth.reduce((a, b) => a + b, 0);
  return {
    op: hits.reduce((a, b) => a + b, 0) / total,
    pc: mean(all.map((i) => hits[i] / truth[i])),
    miou: mean(ious),
    fwiou: all.reduce((sum, i) => sum + truth[i] * (ious[i] || 0), 0) / total,
    ious,
  };
}

/** Prediction, truth, errors and matrix; `given` has labels, names, palette, blues, size, zoom. */
export function view(given, prediction) {
  const { labels, names, palette, size: [height, width], zoom } = given;
  const counts = confusion(prediction, labels, names.length);
  const found = metrics(counts, names.length);
  const rows = names.map((_, i) => Array.from(counts.subarray(i * names.length, (i + 1) * names.length)));
  const shares = rows.flatMap((row) => row.map((count) => (100 * count) / Math.max(1, row.reduce((a, b) => a + b, 0))));
  const side = Math.floor(MATRIX / names.length);
  const wrong = labels.reduce((sum, label, at) => sum + (label !== IGNORE && label !== prediction[at]), 0);
  const panel = (caption, words, picture, scale = zoom) => ({ caption, words, zoom: scale, ...picture });
  const grid = cells(shares, names.length, names.length, side, {
    low: 0, high: 100, table: given.blues, style: (share) => fixed(share, 0),
  });
  const matrix = headed(grid, palette, side, HEAD);
  const known = names.map((name, i) => [name, found.ious[i]]).filter(([, value]) => !Number.isNaN(value));
  const said = known.map(([name, value]) => `${name} ${fixed(value, 2)}`).join(", ");
  const inRows = names.map((name, i) => `${name} ${fixed(shares[i * names.length + i], 0)}`).join(", ");
  return {
    panels: [
      panel("prediction: paint here", `${new Set(prediction).size} classes`, colourise(prediction, height, width, palette)),
      panel("ground truth", `${new Set(labels.filter((label) => label !== IGNORE)).size} classes`, colourise(labels, height, width, palette)),
      panel("wrong pixels", `${wrong} pixels are wrong`, errorMap(prediction, labels, height, width)),
      panel("confusion matrix, %", `of each true class: rows are true classes, columns predicted ones, in the order of the legend; on the diagonal: ${inRows}`, matrix, 1),
    ],
    words:
      `OP ${fixed(found.op, 3)}, PC ${fixed(found.pc, 3)}, mIoU ${fixed(found.miou, 3)}, ` +
      `fwIoU ${fixed(found.fwiou, 3)}. IoU: ${said}.`,
  };
}

/** The prediction that a button starts from: {truth, largest, blocks, shifted}, of labels without holes. */
export function starts({ labels, size: [height, width], names }) {
  const counts = new Int32Array(names.length);
  labels.forEach((label) => label !== IGNORE && counts[label]++);
  const largest = counts.indexOf(Math.max(...counts));
  const filled = labels.map((label) => (label === IGNORE ? largest : label));
  const at = (place) => filled.map((_, index) => filled[place(Math.floor(index / width), index % width)]);
  const middle = (side, length) => Math.min(length - 1, 8 * Math.floor(side / 8) + 4);
  return {
    truth: filled,
    largest: filled.map(() => largest),
    blocks: at((y, x) => middle(y, height) * width + middle(x, width)),
    shifted: at((y, x) => y * width + Math.max(0, x - 2)),
  };
}

/** Returns `respond`: the prediction is kept between its calls. */
export function session(given) {
  const { names, size: [height, width] } = given;
  const begin = starts(given);
  let prediction = begin.shifted;
  return ({ values, pressed, points }) => {
    if (pressed) prediction = begin[pressed];
    if (points.length) {
      const [under, label] = [discs(height, width, points, values.radius), names.indexOf(values.class)];
      prediction = prediction.map((before, at) => (under[at] ? label : before));
    }
    return view(given, prediction);
  };
}

const widget = local((data) => {
  const [labels, blues] = [data.labels, data.blues].map(bytesOf);
  return session({ ...data, labels, blues, palette: coloursOf(bytesOf(data.palette)) });
});

export { widget as default };
