// From numbers to pixels. Colours of heat are matplotlib's inferno at nine places.

const INFERNO = [
  [0, 0, 4], [31, 12, 72], [85, 15, 109], [136, 34, 106], [186, 54, 85], [227, 89, 51], [249, 140, 10], [249, 201, 50],
  [252, 255, 164],
];

export const PALETTE = [
  "#e2563a", "#3b8fd9", "#5aa53c", "#c58a12", "#9a5fd0", "#15a39a", "#d6558f", "#8a8f2a", "#6b7de0", "#b5683a",
];

const HEAT = Uint32Array.from({ length: 256 }, (_, i) => {
  const share = i / 255;
  const [r, g, b] = between(INFERNO, 0.12 + 0.83 * share);
  const cover = share ** 0.8;
  const ink = [r, g, b].map((v, k) => Math.round(v * cover + [12, 10, 22][k] * (1 - cover)));
  const alpha = Math.round(255 * (0.42 + 0.38 * cover));
  return (alpha << 24) | (ink[2] << 16) | (ink[1] << 8) | ink[0];
});

const SHADES = Uint32Array.from({ length: 256 }, (_, i) => {
  const [r, g, b] = between(INFERNO, i / 255).map(Math.round);
  return (255 << 24) | (b << 16) | (g << 8) | r;
});

function between(stops, share) {
  const at = Math.min(Math.max(share, 0), 1) * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  return stops[low].map((v, k) => v + (stops[low + 1][k] - v) * (at - low));
}

export function floorOf(arrays, share) {
  // The value below which a share of all values lies, from some thousand of them.
  const some = [];
  for (const values of arrays) {
    const step = Math.max(1, Math.floor(values.length / 2000));
    for (let i = 0; i < values.length; i += step) some.push(values[i]);
  }
  some.sort((a, b) => a - b);
  return some.length ? some[Math.floor(share * (some.length - 1))] : 0;
}

export function topOf(arrays, source) {
  // The highest value outside the picture that the point lies in, where it is one by itself.
  const others = arrays.filter((_, i) => i !== source);
  return highest(others.length ? others : arrays);
}

function highest(arrays) {
  let high = -Infinity;
  for (const values of arrays) for (let i = 0; i < values.length; i++) if (values[i] > high) high = values[i];
  return high;
}

export function heatPixels(values, width, height, floor, top) {
  return painted(values, width, height, floor, top, HEAT);
}

export function shadePixels(values, width, height) {
  return painted(values, width, height, 0, 255, SHADES);
}

function painted(values, width, height, floor, top, colours) {
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const scale = 255 / Math.max(top - floor, 1e-9);
  for (let i = 0; i < pixels.length; i++) {
    const v = (values[i] - floor) * scale;
    pixels[i] = colours[v <= 0 ? 0 : v >= 255 ? 255 : v | 0];
  }
  return image;
}

export function rgbPixels(values, width, height) {
  const image = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    image.data.set([values[3 * i], values[3 * i + 1], values[3 * i + 2], 255], 4 * i);
  }
  return image;
}

const LABELS = Uint32Array.from({ length: 256 }, (_, i) => {
  if (!i) return 0x8c160a0c;
  const code = Number.parseInt(PALETTE[(i - 1) % PALETTE.length].slice(1), 16);
  return ((0x9e << 24) | ((code & 255) << 16) | (code & 0xff00) | (code >> 16)) >>> 0;
});

export function labelPixels(values, width, height) {
  // Numbers of things in the palette's colours; 0, nothing, is dimmed.
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  for (let i = 0; i < pixels.length; i++) pixels[i] = LABELS[values[i]];
  return image;
}
