// What diffeat.app.packet packs: a length, a JSON text, arrays of numbers.

const TYPES = { uint8: [Uint8Array, 1], float16: [Uint16Array, 2], float32: [Float32Array, 4] };

export function readPacket(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const arrays = header.arrays.map(({ type, shape }) => {
    const [Kind, size] = TYPES[type];
    const count = shape.reduce((a, b) => a * b, 1);
    const values = new Kind(buffer, at, count);
    at += Math.ceil((count * size) / 8) * 8;
    return { shape, values: type === "float16" ? widened(values) : values };
  });
  return { ...header, arrays };
}

let table = null;

function widened(halves) {
  table ??= Float32Array.from({ length: 65536 }, (_, bits) => {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const fraction = bits & 1023;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return exponent ? sign * 2 ** (exponent - 15) * (1 + fraction / 1024) : sign * 2 ** -24 * fraction;
  });
  const values = new Float32Array(halves.length);
  for (let i = 0; i < halves.length; i++) values[i] = table[halves[i]];
  return values;
}
