// Pictures as raw pixels, as course_lib/widgets/pixels.py and course_lib/plotting.py make them: RGBA bytes, row by
// row. A picture is {height, width, pixels}.

export const IGNORE = 255;
const [RIGHT, WRONG, VOID] = [[222, 226, 230], [250, 10, 185], [255, 255, 255]]; // of error maps
const VERMILION = [213, 94, 0];

/** A picture of one colour. */
export function blank(height, width, value = 255) {
  const pixels = new Uint8ClampedArray(4 * height * width).fill(value);
  for (let at = 3; at < pixels.length; at += 4) pixels[at] = 255;
  return { height, width, pixels };
}

/** A picture of which `colour(index)` gives each pixel's [r, g, b]. */
export function picture(height, width, colour) {
  const pixels = new Uint8ClampedArray(4 * height * width);
  for (let index = 0, at = 0; index < height * width; index++, at += 4) {
    const [r, g, b] = colour(index);
    pixels[at] = r;
    pixels[at + 1] = g;
    pixels[at + 2] = b;
    pixels[at + 3] = 255;
  }
  return { height, width, pixels };
}

function roundEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

/** [r, g, b] of a number between `low` and `high`; `table` holds 256 colours. */
export function heatColour(value, low, high, table) {
  const f = Math.fround; // as torch rounds
  const share = f(f(f(value - f(low)) / f(Math.max(high - low, 1e-12))) * 255);
  const index = 3 * Math.min(255, Math.max(0, roundEven(share)));
  return [table[index], table[index + 1], table[index + 2]];
}

/** Numbers in colours. */
export function heat(values, height, width, low, high, table) {
  return picture(height, width, (index) => heatColour(values[index], low, high, table));
}

/** Labels in the colours of a palette, [[r, g, b], ...]; what it lacks is white. */
export function colourise(labels, height, width, palette) {
  return picture(height, width, (index) => palette[labels[index]] ?? VOID);
}

/** Right pixels grey, wrong ones magenta, ignored ones white. */
export function errorMap(prediction, labels, height, width) {
  return picture(height, width, (index) =>
    labels[index] === IGNORE ? VOID : prediction[index] === labels[index] ? RIGHT : WRONG,
  );
}

/** Each pixel `factor` x `factor` times. */
export function enlarged({ height, width, pixels }, factor) {
  const whole = new Uint32Array(pixels.buffer, pixels.byteOffset, height * width); // a pixel at once
  const found = new Uint32Array(height * width * factor ** 2);
  for (let y = 0, at = 0; y < height * factor; y++) {
    const row = Math.floor(y / factor) * width;
    for (let x = 0; x < width * factor; x++) found[at++] = whole[row + Math.floor(x / factor)];
  }
  return { height: height * factor, width: width * factor, pixels: new Uint8ClampedArray(found.buffer) };
}

function outline({ height, width, pixels }, [left, top, right, bottom], [r, g, b]) {
  const dot = (y, x) => {
    if (y < 0 || x < 0 || y >= height || x >= width) return;
    pixels.set([r, g, b], 4 * (y * width + x));
  };
  for (let x = left; x <= right; x++) [top, bottom].forEach((y) => dot(y, x));
  for (let y = top; y <= bottom; y++) [left, right].forEach((x) => dot(y, x));
}

/** Frames of two pixels inside `boxes`, [top, left, bottom, right], within a thin white line: changes the picture. */
export function outlined(shown, boxes) {
  for (const [top, left, bottom, right] of boxes) {
    for (const inset of [0, 1])
      outline(shown, [left + inset, top + inset, right - 1 - inset, bottom - 1 - inset], VERMILION);
    const inner = [left + 2, top + 2, right - 3, bottom - 3];
    if (inner[0] < inner[2] && inner[1] < inner[3]) outline(shown, inner, VOID);
  }
  return shown;
}

/** A matrix as coloured cells of `side` pixels with thin gaps; its numbers are marks, where all have room. */
export function cells(values, height, width, side, { low, high, table, style = String }) {
  const small = heat(values, height, width, low, high, table);
  const shown = enlarged(small, side);
  const whole = new Uint32Array(shown.pixels.buffer);
  for (let y = 0; y < shown.height; y++)
    if (y % side === 0) whole.fill(0xffffffff, y * shown.width, (y + 1) * shown.width);
    else for (let x = 0; x < shown.width; x += side) whole[y * shown.width + x] = 0xffffffff;
  const texts = Array.from(values, style);
  const longest = Math.max(...texts.map((text) => text.length));
  const size = Math.max(8, Math.round(0.48 * side));
  if (side < 12 || 0.64 * size * longest > side - 2) return { ...shown, marks: [] };
  const marks = texts.map((text, index) => {
    const [r, g, b] = small.pixels.subarray(4 * index, 4 * index + 3);
    const bright = 0.3 * r + 0.6 * g + 0.1 * b > 128;
    const middle = [((index % width) + 0.5) * side, (Math.floor(index / width) + 0.5) * side];
    return { kind: "text", points: [middle], text, size, fill: bright ? "black" : "white" };
  });
  return { ...shown, marks };
}

/** 1 in discs around `points`, [row, column] in pixels; those outside the picture are passed over, unless all are. */
export function discs(height, width, points, radius) {
  const inside = points.filter(([row, column]) => row >= 0 && row < height && column >= 0 && column < width);
  if (!inside.length) {
    const [row, column] = points[0].map((place) => fixed(place, 0));
    throw new Error(
      `The brush is outside the image, at row ${row}, column ${column} of ${height}x${width} pixels: ` +
        "nothing is painted there.",
    );
  }
  const found = new Uint8Array(height * width);
  for (const [row, column] of inside)
    for (let y = Math.max(0, Math.floor(row - radius)); y < Math.min(height, row + radius); y++)
      for (let x = Math.max(0, Math.floor(column - radius)); x < Math.min(width, column + radius); x++)
        if ((y + 0.5 - row) ** 2 + (x + 0.5 - column) ** 2 <= radius ** 2) found[y * width + x] = 1;
  return found;
}

/** A matrix of cells with the colour of its class before each row and above each column, `head` pixels thick. */
export function headed(grid, palette, side, head) {
  const [height, width] = [grid.height + head, grid.width + head];
  const shown = blank(height, width);
  const from = new Uint32Array(grid.pixels.buffer);
  const to = new Uint32Array(shown.pixels.buffer);
  for (let y = 0; y < grid.height; y++)
    to.set(from.subarray(y * grid.width, (y + 1) * grid.width), (y + head) * width + head);
  palette.forEach((colour, index) => {
    for (let along = 2; along < side - 1; along++)
      for (let across = 2; across < head - 2; across++)
        for (const at of [(head + index * side + along) * width + across, across * width + head + index * side + along])
          shown.pixels.set(colour, 4 * at);
  });
  const marks = grid.marks.map((mark) => ({ ...mark, points: mark.points.map(([x, y]) => [x + head, y + head]) }));
  return { ...shown, marks };
}

// -- numbers in words, as Python writes them --------------------------------------------------------------

/** `digits` decimals; what lies exactly between two goes to the even one. */
export function fixed(value, digits) {
  const scaled = value * 10 ** digits;
  if (Math.abs(scaled) < 2 ** 40 && Math.abs(scaled % 1) === 0.5) return (roundEven(scaled) / 10 ** digits).toFixed(digits);
  return value.toFixed(digits);
}

/** A share as percent. */
export function percent(share, digits = 0) {
  return `${fixed(100 * share, digits)}%`;
}

/** At most three figures. */
export function short(value) {
  return String(Number(value.toPrecision(3)));
}

// -- what a panel of the data needs -------------------------------------------------------------------------

/** [[r, g, b], ...] of flat bytes. */
export function coloursOf(bytes) {
  return Array.from({ length: bytes.length / 3 }, (_, index) => [...bytes.subarray(3 * index, 3 * index + 3)]);
}

/** Half-precision numbers of little-endian bytes as single-precision ones. */
export function halves(bytes) {
  const words = new Uint16Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
  const found = new Float32Array(words.length);
  for (let index = 0; index < words.length; index++) {
    const word = words[index];
    const [exponent, fraction] = [(word >> 10) & 31, word & 1023];
    const size = exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24;
    found[index] = word & 0x8000 ? -size : size;
  }
  return found;
}

/** Single-precision numbers of little-endian bytes. */
export function singles(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}
