// A picture that can be pointed at, with something laid over it and marks on it.
import { imageOf } from "./api.js";
import { element } from "./dom.js";

export function fileName(info) {
  return info.name.split("/").pop();
}

export function contentOf(frame, columns, rows) {
  // The part of a grid over the model's image that the picture covers.
  const [left, top, width, height] = frame.content;
  const [across, down] = [columns / frame.model[0], rows / frame.model[1]];
  return [left * across, top * down, width * across, height * down];
}

export class PictureBox {
  // handlers: onpoint(x, y), onhover(x, y | null); points are pixels of the original picture.
  constructor(info, { side = 1024, onpoint = null, onhover = null, tools = [], src = imageOf(info.id, side) } = {}) {
    this.info = info;
    this.image = element("img", { src, alt: "", draggable: "false", decoding: "async" });
    this.overlay = element("canvas.overlay", { width: 1, height: 1, "aria-hidden": "true" });
    this.marks = element("div.marks", { "aria-hidden": "true" });
    this.area = element(
      "div.area",
      onpoint
        ? { tabindex: "0", role: "application", "aria-roledescription": "picture", "aria-label": this.#says() }
        : { role: "img", "aria-label": info.name },
      this.image, this.overlay, this.marks,
    );
    this.note = element("span.note");
    this.figure = element(
      "figure.picture",
      {},
      this.area,
      element("figcaption", {}, element("span.name", { title: info.name }, fileName(info)), this.note, ...tools),
    );
    this.figure.style.setProperty("--aspect", String(info.width / info.height));
    this.cursor = null;
    if (onpoint) this.#listen(onpoint, onhover);
  }

  #says() {
    return `${this.info.name}, ${this.info.width} by ${this.info.height} pixels. Arrow keys move the pointer, Enter picks the point.`;
  }

  #listen(onpoint, onhover) {
    const at = (event) => {
      const box = this.area.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * this.info.width - 0.5;
      const y = ((event.clientY - box.top) / box.height) * this.info.height - 0.5;
      return [clamp(x, this.info.width), clamp(y, this.info.height)];
    };
    this.area.addEventListener("click", (event) => onpoint(...at(event)));
    if (onhover) {
      this.area.addEventListener("pointermove", (event) => event.pointerType !== "touch" && onhover(...at(event)));
      this.area.addEventListener("pointerleave", () => onhover(null));
    }
    this.area.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 1 : Math.max(1, Math.round(Math.max(this.info.width, this.info.height) / 50));
      const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
      if (event.key in moves) {
        const [x, y] = this.cursor ?? [(this.info.width - 1) / 2, (this.info.height - 1) / 2];
        this.cursor = [clamp(x + moves[event.key][0], this.info.width), clamp(y + moves[event.key][1], this.info.height)];
        this.#showCursor();
        onhover?.(...this.cursor);
        event.preventDefault();
      } else if (event.key === "Enter" || event.key === " ") {
        onpoint(...(this.cursor ?? [(this.info.width - 1) / 2, (this.info.height - 1) / 2]));
        event.preventDefault();
      } else if (event.key === "Escape") {
        this.cursor = null;
        this.#showCursor();
        onhover?.(null);
      }
    });
    this.area.addEventListener("blur", () => {
      this.cursor = null;
      this.#showCursor();
      onhover?.(null);
    });
  }

  #showCursor() {
    this.area.querySelector(".cursor")?.remove();
    if (!this.cursor) return;
    const cursor = element("span.cursor", { "aria-hidden": "true" });
    this.#put(cursor, this.cursor);
    this.area.append(cursor);
  }

  #put(mark, [x, y]) {
    mark.style.left = `${((x + 0.5) / this.info.width) * 100}%`;
    mark.style.top = `${((y + 0.5) / this.info.height) * 100}%`;
  }

  mark(points) {
    // points: [{x, y, kind: "source" | "match", label, colour}]
    this.marks.replaceChildren(
      ...points.map(({ x, y, kind, label, colour }) => {
        const mark = element(`span.mark.${kind}`, {}, label ?? "");
        if (colour) mark.style.setProperty("--mark", colour);
        this.#put(mark, [x, y]);
        return mark;
      }),
    );
  }

  lay(pixels, part = null) {
    // Lay ImageData over the picture; `part` is [left, top, width, height] of it that the picture covers.
    if (!pixels) {
      this.overlay.width = this.overlay.height = 1;
      return;
    }
    const [left, top, width, height] = part ?? [0, 0, pixels.width, pixels.height];
    const whole = left === 0 && top === 0 && width === pixels.width && height === pixels.height;
    if (whole) {
      if (this.overlay.width !== width || this.overlay.height !== height) {
        this.overlay.width = width;
        this.overlay.height = height;
      }
      this.overlay.getContext("2d").putImageData(pixels, 0, 0);
      return;
    }
    const sheet = element("canvas", { width: pixels.width, height: pixels.height });
    sheet.getContext("2d").putImageData(pixels, 0, 0);
    this.overlay.width = Math.max(1, Math.round(width * 8));
    this.overlay.height = Math.max(1, Math.round(height * 8));
    this.overlay.getContext("2d").drawImage(sheet, left, top, width, height, 0, 0, this.overlay.width, this.overlay.height);
  }

  async png() {
    // The picture with what lies over it, as a blob, at the picture's shown size.
    await this.image.decode();
    const canvas = element("canvas", { width: this.image.naturalWidth, height: this.image.naturalHeight });
    const pen = canvas.getContext("2d");
    pen.drawImage(this.image, 0, 0);
    if (this.overlay.width > 1) {
      pen.imageSmoothingQuality = "high";
      pen.drawImage(this.overlay, 0, 0, canvas.width, canvas.height);
    }
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  }
}

function clamp(value, size) {
  return Math.min(Math.max(value, 0), size - 1);
}
