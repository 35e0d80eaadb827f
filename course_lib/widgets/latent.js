// Tell the truth of a part of an image, and the whole labeling follows. The arithmetic is that of
// course_lib/latent.py: a decoder that is linear in its code, and Levenberg and Marquardt's refinement.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { colourise, coloursOf, discs, errorMap, fixed, halves, heat, IGNORE, percent, picture, singles } from "./drawing.js";

const [SAME, MENDED, BROKEN, CHANGED] = [[222, 226, 230], [0, 114, 178], [250, 10, 185], [230, 159, 0]];

/** offset + code * jacobian: the logits (classes * pixels) of a code. */
export function logitsOf({ offset, jacobian }, code) {
  const logits = Float32Array.from(offset);
  code.forEach((amount, unit) => {
    if (!amount) return;
    const column = jacobian.subarray(unit * offset.length, (unit + 1) * offset.length);
    for (let at = 0; at < logits.length; at++) logits[at] += amount * column[at];
  });
  return logits;
}

/** The class of the largest logit, and the entropy of the softmax as a share of the largest possible, of each pixel. */
export function read(logits, classes) {
  const pixels = logits.length / classes;
  const [labels, entropy] = [new Uint8Array(pixels), new Float32Array(pixels)];
  for (let at = 0; at < pixels; at++) {
    let best = 0;
    for (let label = 1; label < classes; label++)
      if (logits[label * pixels + at] > logits[best * pixels + at]) best = label;
    let [total, weighted] = [0, 0];
    for (let label = 0; label < classes; label++) {
      const below = logits[label * pixels + at] - logits[best * pixels + at];
      const power = Math.exp(below);
      total += power;
      weighted += power * below;
    }
    labels[at] = best;
    entropy[at] = (Math.log(total) - weighted / total) / Math.log(classes);
  }
  return { labels, entropy };
}

/** The half of a region that comes first when its pixels are read column by column. */
export function firstHalf(region, height, width) {
  const found = new Uint8Array(region.length);
  let left = Math.ceil(region.reduce((sum, one) => sum + one, 0) / 2);
  for (let x = 0; x < width; x++)
    for (let y = 0; y < height && left > 0; y++)
      if (region[y * width + x]) {
        found[y * width + x] = 1;
        left--;
      }
  return found;
}

/** Objective, gradient and Gauss-Newton matrix at `code`, of the pixels `told`. */
function normalEquations({ offset, jacobian, classes }, labels, told, code, prior) {
  const [size, pixels] = [code.length, offset.length / classes];
  const gradient = code.map((value) => prior * value);
  const curvature = Array.from({ length: size }, (_, row) => Float64Array.from(code, (_, column) => (row === column ? prior : 0)));
  let value = (prior * code.reduce((sum, one) => sum + one * one, 0)) / 2;
  const [p, slope] = [new Float64Array(classes), new Float64Array(size * classes)];
  for (const at of told) {
    let most = -Infinity;
    for (let label = 0; label < classes; label++) {
      let logit = offset[label * pixels + at];
      for (let unit = 0; unit < size; unit++) logit += code[unit] * jacobian[unit * offset.length + label * pixels + at];
      p[label] = logit;
      most = Math.max(most, logit);
    }
    let total = 0;
    for (let label = 0; label < classes; label++) total += p[label] = Math.exp(p[label] - most);
    for (let label = 0; label < classes; label++) p[label] /= total;
    for (let unit = 0; unit < size; unit++) {
      let mean = 0;
      for (let label = 0; label < classes; label++) {
        const moved = p[label] * jacobian[unit * offset.length + label * pixels + at];
        slope[unit * classes + label] = moved;
        mean += moved;
      }
      for (let label = 0; label < classes; label++) slope[unit * classes + label] -= p[label] * mean;
    }
    for (let label = 0; label < classes; label++) {
      const residual = p[label] - (label === labels[at]);
      value += (residual * residual) / 2;
      for (let unit = 0; unit < size; unit++) gradient[unit] += slope[unit * classes + label] * residual;
    }
    for (let row = 0; row < size; row++)
      for (let column = 0; column <= row; column++) {
        let product = 0;
        for (let label = 0; label < classes; label++) product += slope[row * classes + label] * slope[column * classes + label];
        curvature[row][column] += product;
      }
  }
  for (let row = 0; row < size; row++) for (let column = 0; column < row; column++) curvature[column][row] = curvature[row][column];
  return { value, gradient, curvature };
}

/** x of (matrix + damping * 1) x = right, by Cholesky's decomposition of the matrix, which is positive definite. */
function solved(matrix, damping, right) {
  const size = right.length;
  const lower = matrix.map((row) => row.slice());
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i][j] + (i === j ? damping : 0);
      for (let k = 0; k < j; k++) sum -= lower[i][k] * lower[j][k];
      lower[i][j] = i === j ? Math.sqrt(sum) : sum / lower[j][j];
    }
  const x = right.slice();
  for (let i = 0; i < size; i++) {
    for (let k = 0; k < i; k++) x[i] -= lower[i][k] * x[k];
    x[i] /= lower[i][i];
  }
  for (let i = size - 1; i >= 0; i--) {
    for (let k = i + 1; k < size; k++) x[i] -= lower[k][i] * x[k];
    x[i] /= lower[i][i];
  }
  return x;
}

function dot(a, b) {
  return a.reduce((sum, value, index) => sum + value * b[index], 0);
}

/** The code that fits the labels of a region, and keeps near zero by `prior`: `refine` of latent.py, step for step. */
export function refine(linear, labels, region, prior, { steps = 30, tolerance = 1e-3 } = {}) {
  const told = Array.from(labels.keys()).filter((at) => region[at] && labels[at] !== IGNORE);
  const size = linear.jacobian.length / linear.offset.length;
  let code = new Float64Array(size);
  let { value, gradient, curvature } = normalEquations(linear, labels, told, code, prior);
  let damping = (1e-3 * curvature.reduce((sum, row, index) => sum + row[index], 0)) / size;
  let growth = 2;
  for (let step = 0; step < steps; step++) {
    const move = solved(curvature, damping, gradient).map((one) => -one);
    const bent = curvature.map((row) => dot(row, move));
    const predicted = -(dot(gradient, move) + dot(move, bent) / 2);
    if (!(predicted > tolerance * value)) break;
    const next = code.map((one, index) => one + move[index]);
    const found = normalEquations(linear, labels, told, next, prior);
    const gain = (value - found.value) / predicted;
    if (gain <= 0) {
      damping *= growth;
      growth *= 2;
      continue;
    }
    const gained = value - found.value;
    code = next;
    ({ value, gradient, curvature } = found);
    damping *= Math.max(1 / 3, 1 - (2 * gain - 1) ** 3);
    growth = 2;
    if (gained < tolerance * value) break;
  }
  return code;
}

function share(right, where) {
  let [hits, all] = [0, 0];
  for (let at = 0; at < where.length; at++)
    if (where[at]) {
      all++;
      hits += right[at];
    }
  return hits / all;
}

/** What a code makes of a scene when the truth is given on `region`; `given` has size, classes, palette, cividis, zoom. */
export function view(given, scene, code, region) {
  const { size: [height, width], classes, palette, zoom } = given;
  const { labels, image, zero } = scene;
  const { labels: prediction, entropy } = read(logitsOf(scene, code), classes);
  const counted = labels.map((label) => Number(label !== IGNORE));
  const told = counted.map((one, at) => Number(one && region[at]));
  const rest = counted.map((one, at) => Number(one && !told[at]));
  const sum = (flags) => flags.reduce((total, one) => total + one, 0);
  const [now, before] = [prediction, zero].map((found) => found.map((label, at) => Number(label === labels[at])));
  const count = sum(told);
  const shown = picture(height, width, (at) => {
    const colour = image.subarray(3 * at, 3 * at + 3);
    if (!count) return colour;
    return told[at] ? palette[labels[at]] : [...colour].map((channel) => Math.floor(channel * 0.75 + 64));
  });
  const change = picture(height, width, (at) => {
    if (prediction[at] === zero[at]) return SAME;
    return counted[at] && now[at] ? MENDED : counted[at] && before[at] ? BROKEN : CHANGED;
  });
  const moved = percent(prediction.reduce((total, label, at) => total + (label !== zero[at]), 0) / prediction.length, 1);
  const mean = fixed(entropy.reduce((total, one) => total + one, 0) / entropy.length, 2);
  const known = sum(counted) > 0;
  const [accuracy, start] = known ? [share(now, counted), share(before, counted)] : [0, 0];
  const truths = new Set(labels.filter((label) => label !== IGNORE)).size;
  const panel = (caption, words, pixels) => ({ caption, words, zoom, ...pixels });
  const panels = [
    panel("image, and what is told", `${count} pixels are told`, shown),
    panel("prediction", `${new Set(prediction).size} classes`, colourise(prediction, height, width, palette)),
    panel("changed by the code", `${moved} of the pixels have another class than with the zero code`, change),
    panel("uncertainty (entropy)", `mean ${mean} of at most 1`, heat(entropy, height, width, 0, 1, given.cividis)),
    panel("errors", known ? `${percent(1 - accuracy, 1)} of the pixels are wrong` : "the truth is not known", errorMap(prediction, labels, height, width)),
    panel("ground truth", `${truths} classes`, colourise(labels, height, width, palette)),
  ];
  if (!known) return { panels, words: "The truth of this image is not known: nothing can be told or counted." };
  const points = 100 * (accuracy - start);
  let words =
    `Pixel accuracy ${percent(accuracy, 1)}; the zero code has ${percent(start, 1)} ` +
    `(${points < 0 ? "" : "+"}${fixed(points, 1)} points). Told: ${percent(count / sum(counted), 1)} of the pixels`;
  if (count && sum(rest))
    words += `; on the others ${percent(share(now, rest), 1)} are right, ${percent(share(before, rest), 1)} with the zero code`;
  return { panels, words: `${words}. Length of the code: ${fixed(Math.sqrt(dot(code, code)), 2)}.` };
}

/** A scene of a page's data, which may have to be loaded. */
async function opened(packed, classes) {
  const parts = await Promise.all([packed.jacobian, packed.offset, packed.labels, packed.image, packed.directions].map(bytesOf));
  const scene = { classes, jacobian: halves(parts[0]), offset: singles(parts[1]), labels: parts[2], image: parts[3] };
  const directions = singles(parts[4]);
  const size = scene.jacobian.length / scene.offset.length;
  scene.directions = Array.from({ length: directions.length / size }, (_, index) => directions.subarray(index * size, (index + 1) * size));
  scene.zero = read(scene.offset, classes).labels;
  return scene;
}

/** Returns `respond`: what has been told and found is kept between its calls. */
export function session(given) {
  const { names, everything, size: [height, width] } = given;
  const scenes = {};
  let [scene, number, region, base] = [null, null, null, null];

  function begin() {
    region = new Uint8Array(height * width);
    base = new Float64Array(scene.jacobian.length / scene.offset.length);
  }

  function answer({ values, pressed, points }, afresh) {
    const slides = Object.keys(values).filter((name) => name.startsWith("move"));
    let moves = Object.fromEntries(slides.map((name) => [name, afresh ? 0 : values[name]]));
    const rest = Object.fromEntries(slides.map((name) => [name, 0]));
    let problem = "";
    if (!afresh && pressed === "forget") {
      begin();
      moves = rest;
    }
    const label = names.indexOf(values.told);
    const chosen = scene.labels.map((one) => Number(values.told === everything ? one !== IGNORE : one === label));
    const some = chosen.some(Boolean);
    if (points.length) {
      const disc = discs(height, width, points, values.radius);
      if (!disc.some((one, at) => one && chosen[at])) problem = `There is no pixel of ${values.told} under the brush.`;
      region = region.map((one, at) => one | (disc[at] & chosen[at]));
    }
    if (pressed === "tell" || pressed === "half") {
      if (!some) problem = `This image has no pixel of ${values.told}: there is nothing to tell.`;
      const added = pressed === "half" ? firstHalf(chosen, height, width) : chosen;
      region = region.map((one, at) => one | added[at]);
    }
    if (pressed === "refine") {
      if (region.some(Boolean)) {
        base = refine(scene, scene.labels, region, values.prior);
        moves = rest;
      } else {
        problem = "Nothing is told yet: tell a class or paint on the image, then refine.";
      }
    }
    const code = Float64Array.from(base);
    scene.directions.forEach((direction, index) => {
      const amount = moves[`move${index + 1}`] ?? 0;
      direction.forEach((one, unit) => (code[unit] += amount * one));
    });
    return { ...view(given, scene, code, region), values: moves, problem };
  }

  return (event) => {
    const wanted = event.values.picture;
    if (wanted === number) return answer(event, false);
    scenes[wanted] ??= opened(given.pictures[wanted], names.length);
    return scenes[wanted].then((found) => {
      [scene, number] = [found, wanted];
      begin();
      return answer(event, true);
    });
  };
}

const widget = local((data) =>
  session({ ...data, classes: data.names.length, palette: coloursOf(bytesOf(data.palette)), cividis: bytesOf(data.cividis) }),
);

export { widget as default };
