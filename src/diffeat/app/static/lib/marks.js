// A picture to mark: points that are dragged, boxes that are drawn, a mask that is painted.
import { PALETTE } from "./colours.js";
import { element } from "./dom.js";
import { PictureBox } from "./picture.js";

const CELLS = 256; // of the longer side of a painted mask
const NEAR = 18; // pixels of the screen within which a mark is taken hold of

export function readMarks(text, numbers) {
  // {name: [x, y, …]} of "name,x,y;name,x,y"; names are percent-encoded.
  const marks = {};
  for (const part of (text ?? "").split(";").filter(Boolean)) {
    const [name, ...rest] = part.split(",");
    const values = rest.map(Number);
    try {
      if (values.length === numbers && values.every(Number.isFinite)) marks[decodeURIComponent(name)] = values;
    } catch {
      // a damaged link: what can be read is shown
    }
  }
  return marks;
}

export function writeMarks(marks) {
  return Object.entries(marks).map(([name, values]) => [encodeURIComponent(name), ...values.map((v) => String(Math.round(v * 100) / 100))].join(",")).join(";");
}

export class Marker {
  // handlers: moved(name, [x, y]); and of the picture that is marked: added([x, y]), boxed([l, t, r, b]), painted(),
  // brush() → [share of the longer side, label]
  constructor(info, handlers) {
    this.info = info;
    this.handlers = handlers;
    this.mode = "points";
    this.points = {};
    this.boxes = {};
    this.fixed = {};
    this.shown = {};
    const scale = CELLS / Math.max(info.width, info.height);
    this.width = Math.max(1, Math.round(info.width * scale));
    this.height = Math.max(1, Math.round(info.height * scale));
    this.labels = new Uint8Array(this.width * this.height);
    this.box = new PictureBox(info, { onpoint: (x, y) => this.#pick(x, y) });
    this.frames = element("div.marks", { "aria-hidden": "true" });
    this.box.area.append(this.frames);
    this.#listen();
  }

  #listen() {
    const { area } = this.box;
    area.classList.add("to-mark");
    area.addEventListener("pointerdown", (event) => {
      if (event.button > 0) return;
      const at = this.#at(event);
      this.ended = false;
      this.held = this.#under(event);
      this.start = at;
      area.setPointerCapture(event.pointerId);
      if (this.mode === "mask" && this.handlers.brush) this.#paint(at);
    });
    area.addEventListener("pointermove", (event) => {
      if (!this.start) return;
      const at = this.#at(event);
      if (this.held) this.#drag(at);
      else if (this.mode === "mask" && this.handlers.brush) this.#paint(at);
      else if (this.mode === "boxes" && this.handlers.boxed) this.#frame("new", boxOf(this.start, at), "new");
    });
    area.addEventListener("pointerup", (event) => {
      if (!this.start) return;
      const at = this.#at(event);
      const moved = Math.hypot(at[0] - this.start[0], at[1] - this.start[1]) * (area.clientWidth / this.info.width) > 3;
      this.ended = moved || this.mode !== "points" || Boolean(this.held); // the click that follows is no point
      if (this.held && moved) this.handlers.moved(this.held, at);
      else if (this.mode === "boxes" && this.handlers.boxed && moved) this.handlers.boxed(boxOf(this.start, at));
      if (this.mode === "mask" && this.handlers.painted) this.handlers.painted();
      this.start = this.held = null;
    });
    area.addEventListener("pointercancel", () => { this.start = this.held = null; });
  }

  #pick(x, y) {
    // A click, or Enter at the pointer of the keyboard.
    if (this.ended) {
      this.ended = false;
      return;
    }
    if (this.mode === "points") this.handlers.added?.([x, y]);
    else if (this.mode === "mask" && this.handlers.brush) {
      this.#paint([x, y]);
      this.handlers.painted();
    } else if (this.mode === "boxes" && this.handlers.boxed) {
      if (this.corner) this.handlers.boxed(boxOf(this.corner, [x, y]));
      this.corner = this.corner ? null : [x, y];
    }
  }

  #at(event) {
    const box = this.box.area.getBoundingClientRect();
    return [
      inside(((event.clientX - box.left) / box.width) * this.info.width - 0.5, this.info.width),
      inside(((event.clientY - box.top) / box.height) * this.info.height - 0.5, this.info.height),
    ];
  }

  #under(event) {
    // The name of the point under the pointer.
    if (this.mode !== "points" && this.handlers.added) return null;
    const box = this.box.area.getBoundingClientRect();
    let [best, near] = [null, NEAR];
    for (const [name, [x, y]] of Object.entries(this.shown)) {
      const left = box.left + ((x + 0.5) / this.info.width) * box.width;
      const top = box.top + ((y + 0.5) / this.info.height) * box.height;
      const distance = Math.hypot(event.clientX - left, event.clientY - top);
      if (distance < near) [best, near] = [name, distance];
    }
    return best;
  }

  #drag(at) {
    this.draw({ ...this.shown, [this.held]: at }, this.frame, this.colour);
  }

  draw(points, boxes, colour) {
    this.box.area.dataset.mode = this.handlers.added ? this.mode : "points";
    this.shown = points;
    this.frame = boxes;
    this.colour = colour;
    this.box.mark(Object.entries(points).map(([name, [x, y]]) => ({ x, y, kind: "point", label: name, colour: colour(name) })));
    this.frames.replaceChildren();
    Object.entries(boxes).forEach(([name, box], k) => this.#frame(name, box, PALETTE[k % PALETTE.length]));
  }

  #frame(name, [left, top, right, bottom], colour) {
    this.frames.querySelector(".new")?.remove();
    const frame = element(colour === "new" ? "span.frame.new" : "span.frame", {}, name);
    Object.assign(frame.style, {
      left: `${((left + 0.5) / this.info.width) * 100}%`, top: `${((top + 0.5) / this.info.height) * 100}%`,
      width: `${((right - left) / this.info.width) * 100}%`, height: `${((bottom - top) / this.info.height) * 100}%`,
    });
    if (colour !== "new") frame.style.setProperty("--mark", colour);
    this.frames.append(frame);
  }

  #paint([x, y]) {
    const [share, label] = this.handlers.brush();
    const radius = Math.max(1, share * CELLS);
    const [cx, cy] = [((x + 0.5) / this.info.width) * this.width, ((y + 0.5) / this.info.height) * this.height];
    for (let j = Math.max(0, Math.floor(cy - radius)); j < Math.min(this.height, cy + radius); j++) {
      for (let i = Math.max(0, Math.floor(cx - radius)); i < Math.min(this.width, cx + radius); i++) {
        if ((i + 0.5 - cx) ** 2 + (j + 0.5 - cy) ** 2 <= radius ** 2) this.labels[j * this.width + i] = label;
      }
    }
    this.#lay(this.labels, null, this.width, this.height);
  }

  #lay(labels, sure, width, height) {
    const image = new ImageData(width, height);
    for (let i = 0; i < labels.length; i++) {
      if (!labels[i]) continue;
      const rgb = Number.parseInt(PALETTE[(labels[i] - 1) % PALETTE.length].slice(1), 16);
      image.data.set([rgb >> 16, (rgb >> 8) & 255, rgb & 255, sure ? 60 + sure[i] * 0.6 : 140], 4 * i);
    }
    this.box.lay(image);
  }

  paintOn(labels) {
    this.labels = labels;
    if (labels.some(Boolean)) this.#lay(labels, null, this.width, this.height);
  }

  wipe() {
    this.labels.fill(0);
    this.corner = null;
    this.box.lay(null);
  }

  show(arrays) {
    // The mask that was found, and how sure it is; or nothing.
    if (!arrays?.length) this.box.lay(null);
    else this.#lay(arrays[0].values, arrays[1].values, arrays[0].shape[1], arrays[0].shape[0]);
  }

  mask() {
    // The painted mask as runs of equal labels; none where nothing is painted.
    if (!this.labels.some(Boolean)) return null;
    const runs = [];
    for (let start = 0, end = 1; start < this.labels.length; start = end++) {
      while (end < this.labels.length && this.labels[end] === this.labels[start]) end++;
      runs.push(this.labels[start], end - start);
    }
    return { width: this.width, height: this.height, runs };
  }
}

function boxOf([a, b], [c, d]) {
  return [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
}

function inside(value, size) {
  return Math.min(Math.max(value, 0), size - 1);
}
