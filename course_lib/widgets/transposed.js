// Transposed convolution: stamps that overlap. The arithmetic is that of `transposed_view` in upsampling.py.

import { local } from "./explorer.js";
import { bytesOf } from "./page.js";
import { cells, outlined, short } from "./drawing.js";

const SIDE = 270; // pixels that a panel is wide, at most

/** (kernel * kernel) weights of a stamp: all ones, or those of bilinear interpolation. */
export function stampOf(shape, kernel) {
  const factor = Math.floor((kernel + 1) / 2);
  const centre = kernel % 2 ? factor - 1 : factor - 0.5;
  const line = Array.from({ length: kernel }, (_, index) =>
    shape === "ones" ? 1 : 1 - Math.abs(index - centre) / factor,
  );
  return line.flatMap((down) => line.map((across) => down * across));
}

/** A square map of `side` cells, stamped with `weights` at `stride` times each place: {values, side}. */
export function stamped(map, side, weights, kernel, stride) {
  const large = (side - 1) * stride + kernel;
  const values = new Float64Array(large * large);
  map.forEach((value, index) => {
    const [top, left] = [Math.floor(index / side) * stride, (index % side) * stride];
    weights.forEach((weight, at) => {
      values[(top + Math.floor(at / kernel)) * large + left + (at % kernel)] += value * weight;
    });
  });
  return { values, side: large };
}

/** How many stamps meet in the cells away from the rim, in words. */
export function meetings({ values, side }, kernel, stride) {
  if (kernel < stride) return "Between the stamps cells stay empty: the kernel is smaller than the stride.";
  if (kernel % stride === 0)
    return (
      `The stride divides the kernel, so away from the rim ${(kernel / stride) ** 2} stamps ` +
      "meet in every cell: an even ground."
    );
  const inside = Array.from(values).filter((_, index) =>
    [Math.floor(index / side), index % side].every((place) => place >= kernel - 1 && place <= side - kernel),
  );
  const counts = [...new Set(inside)].sort((a, b) => a - b).join(", ");
  return (
    `The stride does not divide the kernel: unequal numbers of stamps${counts && ` (${counts})`} meet in ` +
    "neighbours, which draws a chequered pattern."
  );
}

/** Map, counts and output for {kernel, stride, row, column, stamp}; `map` is a list of rows. */
export function view({ map, cividis, viridis }, { kernel, stride, row, column, stamp }) {
  const [flat, side] = [map.flat(), map.length];
  const output = stamped(flat, side, stampOf(stamp, kernel), kernel, stride);
  const meeting = stamped(flat.map(() => 1), side, stampOf("ones", kernel), kernel, stride);
  const [top, left] = [row * stride, column * stride];
  const [large, small] = [Math.floor(SIDE / output.side), Math.floor(SIDE / side)];
  const frame = [top, left, top + kernel, left + kernel].map((place) => place * large);
  const chosen = [row, column, row + 1, column + 1].map((place) => place * small);
  const size = `${output.side}x${output.side}`;
  const grid = (given, table) =>
    outlined(cells(given.values, given.side, given.side, large, { low: 0, high: Math.max(...given.values), table, style: short }), [frame]);
  const covers = `rows ${top} to ${top + kernel - 1}`;
  const columns = `columns ${left} to ${left + kernel - 1}`;
  const shown = outlined(cells(flat, side, side, small, { low: 0, high: 4, table: cividis, style: short }), [chosen]);
  return {
    panels: [
      {
        caption: `map, ${side}x${side}`,
        words: `cell (${row}, ${column}), with the value ${short(map[row][column])}, is framed`,
        zoom: 1,
        ...shown,
      },
      {
        caption: `stamps that meet, ${size}`,
        words:
          `counts from ${Math.min(...meeting.values)} to ${Math.max(...meeting.values)}; the framed stamp covers ` +
          `${covers} and ${columns}`,
        zoom: 1,
        ...grid(meeting, viridis),
      },
      {
        caption: `output, ${size}`,
        words: `values from ${short(Math.min(...output.values))} to ${short(Math.max(...output.values))}`,
        zoom: 1,
        ...grid(output, cividis),
      },
    ],
    words:
      `(${side} - 1) x ${stride} + ${kernel} = ${output.side} cells each way. Cell (${row}, ${column}) writes on ` +
      `${covers}, ${columns}. ${meetings(meeting, kernel, stride)}`,
  };
}

const widget = local((data) => {
  const given = { map: data.map, cividis: bytesOf(data.cividis), viridis: bytesOf(data.viridis) };
  return ({ values }) => view(given, values);
});

export { widget as default };
