// Cosine similarity with every pixel while the pointer moves: the mathematics of diffeat.tasks.correspondence.target.
//
// Dot products are made on the native grid and interpolated; lengths of interpolated vectors follow from the products
// of neighbouring cells. Half precision came over the wire, so a click asks the server, which is exact.

export class Prepared {
  constructor(values, [channels, rows, columns], frame, width, height) {
    this.values = values;
    this.channels = channels;
    this.rows = rows;
    this.columns = columns;
    this.frame = frame;
    this.width = width;
    this.height = height;
    this.x = axis(width, columns, frame, 0);
    this.y = axis(height, rows, frame, 1);
    this.inverse = this.#inverseNorms();
    this.result = new Float32Array(width * height);
  }

  descriptor(x, y) {
    // Of a point in pixels of the original picture, of length one.
    const { low: x0, high: x1, weight: e } = place(x, this.columns, this.frame, 0);
    const { low: y0, high: y1, weight: f } = place(y, this.rows, this.frame, 1);
    const cells = this.rows * this.columns;
    const made = new Float32Array(this.channels);
    let length = 0;
    for (let c = 0; c < this.channels; c++) {
      const at = c * cells;
      const above = mixed(this.values[at + y0 * this.columns + x0], this.values[at + y0 * this.columns + x1], e);
      const below = mixed(this.values[at + y1 * this.columns + x0], this.values[at + y1 * this.columns + x1], e);
      made[c] = mixed(above, below, f);
      length += made[c] * made[c];
    }
    const scale = 1 / Math.max(Math.sqrt(length), 1e-12);
    for (let c = 0; c < this.channels; c++) made[c] *= scale;
    return made;
  }

  similarity(descriptor) {
    const cells = this.rows * this.columns;
    const dots = new Float32Array(cells);
    for (let c = 0; c < this.channels; c++) {
      const q = descriptor[c];
      const at = c * cells;
      for (let i = 0; i < cells; i++) dots[i] += q * this.values[at + i];
    }
    const { x, y, width, height, inverse, result } = this;
    for (let j = 0; j < height; j++) {
      const above = y.low[j] * this.columns;
      const below = y.high[j] * this.columns;
      const f = y.weight[j];
      for (let i = 0; i < width; i++) {
        const e = x.weight[i];
        const a = mixed(dots[above + x.low[i]], dots[above + x.high[i]], e);
        const b = mixed(dots[below + x.low[i]], dots[below + x.high[i]], e);
        result[j * width + i] = mixed(a, b, f) * inverse[j * width + i];
      }
    }
    return result;
  }

  #inverseNorms() {
    const { rows, columns, values, x, y, width, height } = this;
    const cells = rows * columns;
    const [own, right, down, cross] = [0, 1, 2, 3].map(() => new Float64Array(cells));
    for (let c = 0; c < this.channels; c++) {
      for (let r = 0; r < rows; r++) {
        for (let k = 0; k < columns; k++) {
          const i = r * columns + k;
          const at = c * cells + i;
          const v = values[at];
          own[i] += v * v;
          if (k + 1 < columns) right[i] += v * values[at + 1];
          if (r + 1 < rows) down[i] += v * values[at + columns];
          if (k + 1 < columns && r + 1 < rows) {
            cross[i] += v * values[at + columns + 1] + values[at + 1] * values[at + columns];
          }
        }
      }
    }
    const inverse = new Float32Array(width * height);
    for (let j = 0; j < height; j++) {
      const [r0, r1, f] = [y.low[j] * columns, y.high[j] * columns, y.weight[j]];
      for (let i = 0; i < width; i++) {
        const [k0, k1, e] = [x.low[i], x.high[i], x.weight[i]];
        const both = e * (1 - e);
        const row = (r) => own[r + k0] * (1 - e) ** 2 + own[r + k1] * e ** 2 + 2 * both * right[r + k0];
        const next = down[r0 + k0] * (1 - e) ** 2 + down[r0 + k1] * e ** 2 + both * cross[r0 + k0];
        const squared = row(r0) * (1 - f) ** 2 + row(r1) * f ** 2 + 2 * f * (1 - f) * next;
        inverse[j * width + i] = 1 / Math.max(Math.sqrt(Math.max(squared, 0)), 1e-12);
      }
    }
    return inverse;
  }
}

function mixed(a, b, share) {
  return a + (b - a) * share;
}

function place(point, cells, frame, side) {
  const model = ((point + 0.5) * frame.content[2 + side]) / frame.original[side] - 0.5 + frame.content[side];
  const cell = ((model + 0.5) * cells) / frame.model[side] - 0.5;
  const clamped = Math.min(Math.max(cell, 0), cells - 1);
  const low = Math.floor(clamped);
  return { low, high: Math.min(low + 1, cells - 1), weight: clamped - low };
}

function axis(count, cells, frame, side) {
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const weight = new Float64Array(count);
  for (let i = 0; i < count; i++) {
    const at = place(((i + 0.5) * frame.original[side]) / count - 0.5, cells, frame, side);
    [low[i], high[i], weight[i]] = [at.low, at.high, at.weight];
  }
  return { low, high, weight };
}
