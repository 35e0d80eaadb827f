// Softmax is not one-to-one, implicit background is. The arithmetic is that of simplex.py.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { blank, fixed, heatColour, picture } from "./drawing.js";

const NAMES = ["background", "object 1", "object 2"];
const COLOURS = [[140, 140, 140], [0, 114, 178], [230, 159, 0]];
const [WIDTH, HEIGHT] = [360, 340];
const CORNERS = [[180, 36], [28, 300], [332, 300]];

function softmax(logits) {
  const most = Math.max(...logits);
  const powers = logits.map((logit) => Math.exp(logit - most));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

function logsumexp(logits) {
  const most = Math.max(...logits);
  return most + Math.log(logits.reduce((sum, logit) => sum + Math.exp(logit - most), 0));
}

/** The probabilities of background and both objects: {explicit, implicit}. */
export function probabilities(x1, x2, shift) {
  const explicit = [-logsumexp([x1, x2]), x1, x2].map((logit) => logit + shift);
  const objects = [x1 + shift, x2 + shift];
  return { explicit: softmax(explicit), implicit: softmax([-logsumexp(objects), ...objects]) };
}

/**
 * Expected non-distinctiveness of one pixel, by its probabilities: how sure of one object, if it is one, times how
 * sure of background; mode 1 takes the background's share of all, mode 2 that of a duel with the best object.
 */
export function nonDistinctiveness([background, ...objects], mode) {
  const best = Math.max(...objects);
  const sure = (best / objects.reduce((a, b) => a + b) - 1 / objects.length) / (1 - 1 / objects.length);
  return Math.max(0, sure) * (mode === 1 ? background : background / (background + best));
}

/** The place of probabilities in the triangle, [x, y] in pixels. */
export function place(p) {
  return [0, 1].map((axis) => p.reduce((sum, share, corner) => sum + share * CORNERS[corner][axis], 0));
}

/** The probabilities that lie at [x, y]; below 0 outside the triangle. */
function at([x, y]) {
  const [[ax, ay], [bx, by], [cx, cy]] = CORNERS;
  const whole = (by - cy) * (ax - cx) + (cx - bx) * (ay - cy);
  const first = ((by - cy) * (x - cx) + (cx - bx) * (y - cy)) / whole;
  const second = ((cy - ay) * (x - cx) + (ax - cx) * (y - cy)) / whole;
  return [first, second, 1 - first - second];
}

/** The triangle in the colours of END, mode 1, from 0 to 1. */
export function endPicture(table) {
  return picture(HEIGHT, WIDTH, (index) => {
    const p = at([(index % WIDTH) + 0.5, Math.floor(index / WIDTH) + 0.5]);
    return Math.min(...p) < 0 ? [255, 255, 255] : heatColour(nonDistinctiveness(p, 1), 0, 1, table);
  });
}

const outlineAndNames = [
  { kind: "polygon", points: CORNERS, stroke: "rgb(70,70,70)", thickness: 1.5 },
  ...CORNERS.map(([x, y], corner) => ({
    kind: "text", points: [[x, y + 14 * (corner ? 1 : -1)]], text: NAMES[corner], size: 14, fill: "black",
  })),
];

function regions() {
  const between = (points) => [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
  return COLOURS.map((colour, corner) => {
    const others = [0, 1, 2].filter((other) => other !== corner);
    const [one, two] = others.map((other) => between([CORNERS[corner], CORNERS[other]]));
    const light = colour.map((channel) => Math.round(255 - 0.28 * (255 - channel)));
    return { kind: "polygon", points: [CORNERS[corner], one, between(CORNERS), two], fill: `rgb(${light})` };
  });
}

/** Both predictions in the triangle, for {x1, x2, shift}; `ends` is that of `endPicture`. */
export function view(ends, { x1, x2, shift }) {
  const { explicit, implicit } = probabilities(x1, x2, shift);
  const shifts = Array.from({ length: 81 }, (_, index) => -4 + index / 10);
  const said = (p) => p.map((share, index) => `${NAMES[index]} ${fixed(share, 2)}`).join(", ");
  const best = NAMES.filter((_, index) => implicit[index] > Math.max(...implicit) - 1e-9);
  const verdict = best.length === 1 ? `${best[0]} wins` : `${best.join(" and ")} are level`;
  const ofBoth = (p) => [1, 2].map((mode) => fixed(nonDistinctiveness(p, mode), 2)).join(" and ");
  const both = [
    { kind: "line", points: shifts.map((at) => place(probabilities(x1, x2, at).implicit)), stroke: "rgb(90,90,90)", thickness: 2 },
    { kind: "disc", points: [place(explicit)], radius: 9, fill: "rgb(213,94,0)", stroke: "white", thickness: 2 },
    { kind: "square", points: [place(implicit)], radius: 5, fill: "black", stroke: "white", thickness: 1.5 },
  ];
  return {
    panels: [
      {
        caption: "probabilities as a point",
        words: `explicit: ${said(explicit)}; implicit: ${said(implicit)}`,
        zoom: 1,
        ...blank(HEIGHT, WIDTH),
        marks: [...regions(), ...outlineAndNames, ...both],
      },
      {
        caption: "END of each point, mode 1",
        words: `explicit ${fixed(nonDistinctiveness(explicit, 1), 2)}, implicit ${fixed(nonDistinctiveness(implicit, 1), 2)}`,
        zoom: 1,
        ...ends,
        marks: [...outlineAndNames, ...both],
      },
    ],
    words:
      `Objects' logits ${fixed(x1 + shift, 2)} and ${fixed(x2 + shift, 2)}. Explicit softmax: ${said(explicit)}: the ` +
      `shift does not move it. Implicit background: ${said(implicit)}; ${verdict}, and the shift ` +
      "decides how much of the whole the objects get. " +
      `END of this pixel in modes 1 and 2: explicit ${ofBoth(explicit)}, implicit ${ofBoth(implicit)}.`,
  };
}

const widget = local((data) => {
  const ends = endPicture(bytesOf(data.cividis));
  return ({ values }) => view(ends, values);
});

export { widget as default };
