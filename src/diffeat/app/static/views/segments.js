// Words and parts: where the model's attention puts words; which parts its features tell apart.
import { PALETTE, heatPixels, labelPixels } from "../lib/colours.js";
import { element, labelled, later } from "../lib/dom.js";
import { PictureBox, fileName } from "../lib/picture.js";
import { askedOf } from "../lib/state.js";

export default {
  id: "segments",
  title: "Words and parts",
  mount: (root, page) => new Segments(root, page),
};

class Segments {
  constructor(root, page) {
    this.page = page;
    this.kinds = element(
      "div.segments", { role: "group", "aria-label": "What is found" },
      ...[["words", "Words"], ["parts", "Parts"]].map(([of, title]) => element("button", { type: "button", "data-of": of, onclick: () => page.set({ of }) }, title)),
    );
    this.words = element("input", { type: "text", placeholder: "cat, background", maxlength: 600 });
    this.height = element("input", { type: "range", min: 0, max: 1, step: 0.05, oninput: later(120, () => page.set({ height: this.height.value })) });
    this.forWords = element(
      "form.inline", { onsubmit: (event) => { event.preventDefault(); this.#askWords(); } },
      labelled("Words, with commas between", this.words), element("button", { type: "submit" }, "Find"), labelled("Height that counts", this.height),
    );
    this.number = element("input", { type: "range", min: 2, max: 16, step: 1, oninput: () => (this.count.textContent = this.number.value), onchange: () => page.set({ parts: Number(this.number.value) }) });
    this.count = element("output");
    this.method = element("select", { onchange: () => page.set({ method: this.method.value }) }, ...["kmeans", "cuts", "merging"].map((m) => element("option", { value: m }, m)));
    this.granularity = labelled("Granularity: number of parts", element("span.pair", {}, this.number, this.count));
    this.forParts = element("div.inline", {}, this.granularity, labelled("Method", this.method));
    this.message = element("p.message", { role: "alert" });
    this.legend = element("ul.keys", { "aria-label": "Colours" });
    this.notes = element("p.hint");
    this.grid = element("div.grid");
    root.append(element("div.bar", {}, this.kinds, this.forWords, this.forParts), this.message, this.legend, this.grid, this.notes);
  }

  unmount() {
    this.page.reader.cancel();
  }

  #askWords() {
    const words = this.words.value.split(",").map((w) => w.trim()).filter(Boolean);
    this.page.set({ words: [...new Set(words)].slice(0, 12), word: undefined });
  }

  async update(state) {
    const of = state.of ?? "words";
    for (const button of this.kinds.children) button.setAttribute("aria-pressed", String(button.dataset.of === of));
    this.forWords.hidden = of !== "words";
    this.forParts.hidden = of !== "parts";
    this.words.value = (state.words ?? []).join(", ");
    this.height.value = state.height ?? 0.5;
    this.number.value = state.parts ?? 5;
    this.count.textContent = this.number.value;
    this.method.value = state.method ?? "kmeans";
    this.granularity.hidden = this.method.value === "merging";
    await this.#layOut(state);
    this.message.textContent = this.notes.textContent = "";
    if (of === "words") await this.#findWords(state);
    else await this.#findParts(state);
  }

  async #layOut(state) {
    const ids = (state.pictures ?? []).join();
    if (ids === this.ids) return;
    this.ids = ids;
    this.infos = await this.page.gallery.known(state.pictures ?? []);
    this.boxes = new Map(this.infos.map((info) => [info.id, new PictureBox(info)]));
    this.grid.replaceChildren(...[...this.boxes.values()].map((box) => box.figure));
    this.grid.dataset.count = String(this.infos.length);
  }

  async #findWords(state) {
    if (!state.words?.length) {
      this.#clear("Type words; the model's attention to its text says where they are.");
      return;
    }
    const body = { asked: askedOf(state), words: state.words, background: Number(state.height ?? 0.5) };
    const infos = this.infos;
    const jobs = infos.map((info) => this.page.reader.job("words", { ...body, picture: info.id }, `Looking in ${fileName(info)}`));
    await this.page.reader.run(jobs, (i, answer, error) => {
      const box = this.boxes.get(infos[i].id);
      if (error) this.message.textContent = error.message;
      else this.#paintWords(box, answer, state);
    });
  }

  #paintWords(box, { pictures: [told], arrays: [labels, heights] }, state) {
    const [height, width] = labels.shape;
    const single = told.names.indexOf(state.word);
    const each = width * height;
    box.lay(single < 0 ? labelPixels(labels.values, width, height) : heatPixels(heights.values.subarray(single * each, (single + 1) * each), width, height, 0, 255));
    box.note.textContent = told.names.map((n, k) => `${n} ${percent(told.shares[k])}`).join(" · ");
    this.notes.textContent = told.notes.join(". ");
    this.legend.replaceChildren(
      ...told.names.map((name, k) => key(name, k, single === k, () => this.page.set({ word: single === k ? undefined : name }))),
    );
  }

  async #findParts(state) {
    const method = state.method ?? "kmeans";
    const body = { asked: askedOf(state), pictures: this.infos.map((info) => info.id), method };
    if (method !== "merging") body.parts = state.parts ?? 5;
    const infos = this.infos;
    const reading = method === "merging" ? [] : infos.map((info) => this.page.reader.features(askedOf(state), info));
    const map = this.page.state.map ? { map: this.page.state.map } : {};
    const job = this.page.reader.job("parts", { ...body, ...map }, "Splitting");
    await this.page.reader.run([...reading, job], (i, answer, error) => {
      if (error) this.message.textContent = error.message;
      else if (i === reading.length) this.#paintParts(infos, answer);
    });
  }

  #paintParts(infos, answer) {
    const names = new Set();
    for (const [i, { shape: [height, width], values }] of answer.arrays.entries()) {
      const box = this.boxes.get(infos[i].id);
      box?.lay(labelPixels(values, width, height));
      const { shares } = answer.pictures[i];
      if (box) box.note.textContent = `${shares.filter((share) => share > 0).length} parts`;
      answer.pictures[i].names.forEach((name) => names.add(name));
    }
    this.notes.textContent = answer.pictures[0].notes.join(". ");
    this.legend.replaceChildren(...[...names].slice(0, 24).map((name, k) => key(`part ${name}`, k)));
  }

  #clear(words) {
    for (const box of this.boxes.values()) {
      box.lay(null);
      box.note.textContent = "";
    }
    this.legend.replaceChildren();
    this.notes.textContent = words;
  }

  leaving() {
    const { state } = this.page;
    const body = { title: "", asked: askedOf(state), pictures: this.infos.map((info) => info.id) };
    if ((state.of ?? "words") === "words") return [{ ...body, of: "words", words: state.words ?? [], background: Number(state.height ?? 0.5) }];
    const method = state.method ?? "kmeans";
    return [{ ...body, of: "parts", method, ...(method === "merging" ? {} : { parts: state.parts ?? 5 }) }];
  }

  async pngs() {
    return Promise.all([...this.boxes.values()].map(async (box) => [`${fileName(box.info).replace(/\.\w+$/, "")}-${this.page.state.of ?? "words"}.png`, await box.png()]));
  }
}

function key(name, k, pressed = undefined, onclick = null) {
  const spot = element("span.spot", { "aria-hidden": "true" });
  spot.style.background = PALETTE[k % PALETTE.length];
  return element("li", {}, onclick ? element("button.chip", { type: "button", "aria-pressed": String(pressed), title: "Show this word's height", onclick }, spot, name) : element("span.chip", {}, spot, name));
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}
