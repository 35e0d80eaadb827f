// A fully convolutional network in the page: FCN-8s of models/fcn.py, its scores at each stride, and what its skips do.
// The image that is read stays in the page.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { colourise, coloursOf, enlarged, errorMap, halves, heat, IGNORE, percent, picture, singles } from "./drawing.js";

const [MEAN, STD] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]; // of ImageNet

// -- layers: a map is {values, channels, height, width}, values channel by channel, row by row -----------------------

/** A convolution of stride 1 that is followed by a factor and a summand for each channel, and by a ReLU if asked. */
export function convolve(map, { weight, out, kernel, padding, scale, shift, relu }) {
  const [height, width] = [map.height, map.width].map((side) => side + 2 * padding - kernel + 1);
  const [tall, wide] = [map.height + 2 * padding, map.width + 2 * padding];
  const padded = new Float32Array(map.channels * tall * wide);
  for (let row = 0; row < map.channels * map.height; row++) {
    const [channel, y] = [Math.floor(row / map.height), row % map.height];
    padded.set(map.values.subarray(row * map.width, (row + 1) * map.width), (channel * tall + y + padding) * wide + padding);
  }
  const values = new Float32Array(out * height * width);
  const sums = new Float64Array(height * width);
  for (let o = 0; o < out; o++) {
    sums.fill(0);
    for (let c = 0; c < map.channels; c++)
      for (let tap = 0; tap < kernel * kernel; tap++) {
        const factor = weight[(o * map.channels + c) * kernel * kernel + tap];
        const corner = (c * tall + Math.floor(tap / kernel)) * wide + (tap % kernel);
        for (let y = 0; y < height; y++) {
          const [from, to] = [corner + y * wide, y * width];
          for (let x = 0; x < width; x++) sums[to + x] += factor * padded[from + x];
        }
      }
    for (let at = 0; at < sums.length; at++) {
      const value = sums[at] * scale[o] + shift[o];
      values[o * sums.length + at] = relu && value < 0 ? 0 : value;
    }
  }
  return { values, channels: out, height, width };
}

/** The largest of each 2x2 values; sizes are rounded up. */
export function pool({ values, channels, height, width }) {
  const [h, w] = [Math.ceil(height / 2), Math.ceil(width / 2)];
  const found = new Float32Array(channels * h * w).fill(-Infinity);
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < height; y++)
      for (let x = 0; x < width; x++) {
        const at = (c * h + (y >> 1)) * w + (x >> 1);
        found[at] = Math.max(found[at], values[(c * height + y) * width + x]);
      }
  return { values: found, channels, height: h, width: w };
}

/** A transposed convolution without padding; of a `grouped` one each channel reads itself alone. */
export function upsample({ values, channels, height, width }, { weight, kernel, stride, grouped }) {
  const [h, w] = [height, width].map((side) => (side - 1) * stride + kernel);
  const found = new Float32Array(channels * h * w);
  for (let c = 0; c < channels; c++)
    for (let o = grouped ? c : 0; o < (grouped ? c + 1 : channels); o++) {
      const stamp = (grouped ? c : c * channels + o) * kernel * kernel;
      for (let y = 0; y < height; y++)
        for (let x = 0; x < width; x++) {
          const value = values[(c * height + y) * width + x];
          for (let tap = 0; tap < kernel * kernel; tap++)
            found[(o * h + y * stride + Math.floor(tap / kernel)) * w + x * stride + (tap % kernel)] += value * weight[stamp + tap];
        }
    }
  return { values: found, channels, height: h, width: w };
}

/** A part of a map. */
function crop({ values, channels, height, width }, top, left, h, w) {
  const found = new Float32Array(channels * h * w);
  for (let c = 0; c < channels; c++)
    for (let y = 0; y < h; y++) {
      const from = (c * height + top + y) * width + left;
      found.set(values.subarray(from, from + w), (c * h + y) * w);
    }
  return { values: found, channels, height: h, width: w };
}

/** The sum of two score maps where they overlap; `coarse` starts `offset` cells further in. */
export function fuse(coarse, skip, offset) {
  const [a, b] = [Math.max(0, -offset), Math.max(0, offset)];
  const [h, w] = ["height", "width"].map((side) => Math.min(coarse[side] - a, skip[side] - b));
  const [one, other] = [crop(coarse, a, a, h, w), crop(skip, b, b, h, w)];
  return { ...one, values: one.values.map((value, at) => value + other.values[at]) };
}

// -- the network ----------------------------------------------------------------------------------------------------

/** RGB bytes of an image as the network reads them. */
export function normalised(bytes, height, width) {
  const values = new Float32Array(3 * height * width);
  for (let at = 0; at < height * width; at++)
    for (let c = 0; c < 3; c++) values[c * height * width + at] = (bytes[3 * at + c] / 255 - MEAN[c]) / STD[c];
  return { values, channels: 3, height, width };
}

/** The layers with their numbers, which stand one after another in two arrays. */
export function assembled(layers, weights, sums) {
  let [at, also] = [0, 0];
  return layers.map((layer) => {
    const given = { ...layer, weight: weights.subarray(at, (at += layer.count)) };
    if (layer.kind !== "conv") return given;
    given.scale = sums.subarray(also, (also += layer.out));
    given.shift = sums.subarray(also, (also += layer.out));
    return given;
  });
}

/** The scores at strides 32, 16 and 8 of an image, by {name: layer} and the names of each stage. */
export function scoresOf({ byName, stages }, map) {
  const pools = stages.map((names) => (map = pool(names.reduce((before, name) => convolve(before, byName[name]), map))));
  const deep = convolve(convolve(pools[4], byName.fc6), byName.fc7);
  return {
    32: convolve(deep, byName.score),
    16: convolve(pools[3], byName.score_pool4),
    8: convolve(pools[2], byName.score_pool3),
  };
}

/** The logits (classes, H, W) that the scores give; a skip that is left out adds nothing. */
export function joined({ byName, offsets }, scores, skips, height, width) {
  const or0 = (map, kept) => (kept ? map : { ...map, values: map.values.map(() => 0) });
  let map = fuse(upsample(scores[32], byName.upsample_fc), or0(scores[16], skips > 0), offsets.pool4);
  map = fuse(upsample(map, byName.upsample_pool4), or0(scores[8], skips > 1), offsets.pool3);
  return crop(upsample(map, byName.upsample), offsets.picture, offsets.picture, height, width);
}

function argmax({ values, channels, height, width }) {
  return Uint8Array.from({ length: height * width }, (_, at) => {
    let best = 0;
    for (let c = 1; c < channels; c++) if (values[c * height * width + at] > values[best * height * width + at]) best = c;
    return best;
  });
}

/** The panels for the scores of an image {image, labels or null}, a class and a number of skips. */
export function view(given, network, { image, labels, scores }, label, skips) {
  const { names, palette, cividis, size: [height, width], zoom } = given;
  const maps = [0, 1, 2].map((count) => argmax(joined(network, scores, count, height, width)));
  const found = maps[skips];
  const panel = (caption, words, shown) => ({ caption, words, zoom, ...shown });
  const panels = [
    panel("image", "what the network reads", picture(height, width, (at) => image.subarray(3 * at, 3 * at + 3))),
    panel("prediction", `${new Set(found).size} classes`, colourise(found, height, width, palette)),
  ];
  for (const stride of [32, 16, 8]) {
    const map = scores[stride];
    const cells = map.values.subarray(label * map.height * map.width, (label + 1) * map.height * map.width);
    const most = Math.max(...cells.map(Math.abs));
    const left = stride === 16 ? skips < 1 : stride === 8 && skips < 2;
    const shown = enlarged(heat(cells, map.height, map.width, -most, most, cividis), stride);
    panels.push(panel(`score of ${names[label]}, stride ${stride}`, `${map.height}x${map.width} cells${left ? ", left out" : ""}`, shown));
  }
  const shares = names
    .map((name, index) => [name, found.reduce((sum, one) => sum + (one === index), 0) / found.length])
    .filter(([, share]) => share > 0)
    .sort((a, b) => b[1] - a[1]);
  let words = `Predicted: ${shares.slice(0, 4).map(([name, share]) => `${name} ${percent(share)}`).join(", ")}.`;
  if (labels) {
    panels.push(panel("errors", "where prediction and truth differ", errorMap(found, labels, height, width)));
    const counted = Array.from(labels.keys()).filter((at) => labels[at] !== IGNORE);
    const right = maps.map((map) => percent(counted.reduce((sum, at) => sum + (map[at] === labels[at]), 0) / counted.length, 1));
    words += ` Right pixels without skips ${right[0]}, with pool4 ${right[1]}, with pool4 and pool3 ${right[2]}.`;
  } else {
    words += " The truth is not known. The network has seen generated streets alone: of a photograph it can only guess.";
  }
  return { panels, words };
}

/** Returns `respond`; numbers are loaded with the first question. */
export function session(given) {
  const [height, width] = given.size;
  let [network, own] = [null, null];
  const read = {};

  async function opened() {
    const [weights, sums] = await Promise.all([given.weights, given.sums].map(bytesOf));
    const layers = assembled(given.layers, halves(weights), singles(sums));
    return { byName: Object.fromEntries(layers.map((layer) => [layer.name, layer])), stages: given.stages, offsets: given.offsets };
  }

  const scored = (image, labels) => ({ image, labels, scores: scoresOf(network, normalised(image, height, width)) });

  function answer({ values, file, pressed }) {
    if (file) own = scored(file, null);
    if (pressed === "generated") own = null;
    const { image, labels } = given.pictures[values.picture];
    const shown = own ?? (read[values.picture] ??= scored(bytesOf(image), bytesOf(labels)));
    return view(given, network, shown, given.names.indexOf(values.class), given.skips.indexOf(values.skips));
  }

  return (event) => (network ? answer(event) : opened().then((found) => ((network = found), answer(event))));
}

const widget = local((data) =>
  session({ ...data, palette: coloursOf(bytesOf(data.palette)), cividis: bytesOf(data.cividis) }),
);

export { widget as default };
