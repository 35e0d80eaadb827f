// Whom to believe: two networks' logits of one image, weighed by alpha. The arithmetic is that of
// `alpha_view` in self_correction.py.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { colourise, coloursOf, errorMap, fixed, halves, heat, IGNORE, percent } from "./drawing.js";

/** (l + alpha l') / (1 + alpha) for logits (classes * pixels). */
export function corrected(logits, ancillary, alpha) {
  return logits.map((logit, index) => (logit + alpha * ancillary[index]) / (1 + alpha));
}

/** The class of the largest logit at each pixel. */
export function argmax(logits, classes) {
  const pixels = logits.length / classes;
  return Uint8Array.from({ length: pixels }, (_, at) => {
    let best = 0;
    for (let label = 1; label < classes; label++)
      if (logits[label * pixels + at] > logits[best * pixels + at]) best = label;
    return best;
  });
}

/** The largest probability at each pixel. */
export function confidence(logits, classes) {
  const pixels = logits.length / classes;
  return Float32Array.from({ length: pixels }, (_, at) => {
    let most = -Infinity;
    for (let label = 0; label < classes; label++) most = Math.max(most, logits[label * pixels + at]);
    let total = 0;
    for (let label = 0; label < classes; label++) total += Math.exp(logits[label * pixels + at] - most);
    return 1 / total;
  });
}

function share(count, of) {
  return of.reduce((sum, _, at) => sum + count(at), 0) / of.length;
}

/** Maps, confidence and errors; `given` has logits, ancillary, labels (or null), palette, cividis, classes, size, zoom. */
export function view(given, { alpha }) {
  const [height, width] = given.size;
  const mixed = corrected(given.logits, given.ancillary, alpha);
  const maps = Object.entries({ primary: given.logits, ancillary: given.ancillary, corrected: mixed }).map(
    ([name, logits]) => [name, argmax(logits, given.classes)],
  );
  const [[, primary], [, ancillary], [, map]] = maps;
  const sure = confidence(mixed, given.classes);
  const alike = [primary, ancillary].map((other) => percent(share((at) => map[at] === other[at], map), 1));
  const mean = fixed(share((at) => sure[at], sure), 2);
  const range = [Math.min(...sure), Math.max(...sure)].map((value) => fixed(value, 2));
  const panel = (caption, words, picture) => ({ caption, words, zoom: given.zoom, ...picture });
  const panels = maps.map(([name, found]) =>
    panel(name, `${new Set(found).size} classes`, colourise(found, height, width, given.palette)),
  );
  panels.push(panel("its confidence (yellow: sure)", `from ${range[0]} to ${range[1]}, mean ${mean}`, heat(sure, height, width, 0, 1, given.cividis)));
  let words =
    `alpha = ${alpha}: the ancillary weighs ${percent(alpha / (1 + alpha))}. The corrected map agrees with the ` +
    `primary on ${alike[0]} of the pixels and with the ancillary on ${alike[1]}. Mean confidence ${mean}.`;
  if (given.labels) {
    const counted = Array.from(given.labels.keys()).filter((at) => given.labels[at] !== IGNORE);
    const right = maps.map(([name, found]) => [
      name,
      counted.reduce((sum, at) => sum + (found[at] === given.labels[at]), 0) / counted.length,
    ]);
    const wrong = `${percent(1 - right[2][1], 1)} of the pixels are wrong`;
    panels.push(panel("its errors", wrong, errorMap(map, given.labels, height, width)));
    words += ` Right: ${right.map(([name, value]) => `${name} ${percent(value, 1)}`).join(", ")}.`;
  }
  return { panels, words };
}

const widget = local((data) => {
  const { classes, size, zoom } = data;
  const logits = Promise.all([data.logits, data.ancillary].map(bytesOf));
  let given = null;
  const open = async () => {
    const [own, other] = (await logits).map(halves);
    const labels = data.labels ? bytesOf(data.labels) : null;
    const palette = coloursOf(bytesOf(data.palette));
    return { logits: own, ancillary: other, labels, palette, cividis: bytesOf(data.cividis), classes, size, zoom };
  };
  return ({ values }) => {
    if (given) return view(given, values);
    return open().then((found) => view((given = found), values));
  };
});

export { widget as default };
