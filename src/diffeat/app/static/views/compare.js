// Compare: up to four recipes side by side under one click, with what they cost.
import { post, wasCancelled } from "../lib/api.js";
import { floorOf, heatPixels, rgbPixels, topOf } from "../lib/colours.js";
import { element } from "../lib/dom.js";
import { PictureBox, contentOf } from "../lib/picture.js";
import { askedOf, columnOf, columnText } from "../lib/state.js";

const MOST = 4;
const PICTURES = 3;

export default {
  id: "compare",
  title: "Compare",
  mount: (root, page) => new Compare(root, page),
};

class Compare {
  constructor(root, page) {
    this.page = page;
    this.add = element("select", { "aria-label": "Add a recipe", onchange: () => this.#add(this.add.value) });
    this.now = element("button", { type: "button", onclick: () => this.#add(columnText(askedOf(page.state), page.state.map)) }, "Add what is read now");
    this.message = element("p.message", { role: "alert" });
    this.legend = element("p.legend", {}, "Click on a picture: all columns look for that point.");
    this.columns = element("div.columns");
    root.append(element("div.bar", {}, this.add, this.now, this.legend), this.message, this.columns);
    this.add.append(
      element("option", { value: "" }, "Add a recipe …"),
      ...page.session.recipes.map((r) => element("option", { value: columnText({ recipe: r.name }) }, r.name)),
    );
    this.parts = [];
  }

  unmount() {
    this.page.reader.cancel();
    this.click?.abort();
  }

  #texts(state) {
    if (state.columns?.length) return state.columns.slice(0, MOST);
    const now = columnText({ recipe: this.page.session.recipes[0].name, ...askedOf(state) }, state.map);
    return [now, columnText({ recipe: "DAISY" })]; // which costs next to nothing
  }

  #add(text) {
    this.add.value = "";
    if (!text) return;
    const columns = this.#texts(this.page.state);
    this.message.textContent = "";
    if (columns.includes(text)) this.message.textContent = "This is compared already.";
    else if (columns.length >= MOST) this.message.textContent = `${MOST} fit side by side. Take one away first.`;
    else this.page.set({ columns: [...columns, text] });
  }

  async update(state) {
    const texts = this.#texts(state);
    const mark = JSON.stringify([texts, state.pictures]);
    if (mark !== this.mark) {
      this.mark = mark;
      await this.#layOut(texts, state);
      await this.#read(mark);
    } else await this.#show();
  }

  async #layOut(texts, state) {
    this.infos = (await this.page.gallery.known(state.pictures ?? [])).slice(0, PICTURES);
    this.parts = texts.map((text) => {
      const column = columnOf(text);
      const boxes = new Map(this.infos.map((info) => [info.id, new PictureBox(info, {
        side: 640, onpoint: (x, y) => this.page.set({ source: info.id, point: [x, y] }),
      })]));
      const cost = element("dl.cost");
      const away = element("button.quiet.small", { type: "button", "aria-label": `Take ${this.#title(column)} away`, onclick: () => this.#remove(text) }, "×");
      const root = element(
        "section.column", { "aria-label": this.#title(column) },
        element("header", {}, element("h3", {}, this.#title(column)), texts.length > 1 ? away : null), cost,
        ...[...boxes.values()].map((box) => box.figure),
      );
      return { ...column, text, boxes, cost, root };
    });
    this.columns.style.setProperty("--columns", String(texts.length));
    this.columns.replaceChildren(...this.parts.map((part) => part.root));
  }

  #title({ asked }) {
    const name = asked.recipe || this.page.session.recipes[0].name;
    const more = [...(asked.activations ?? []), ...(asked.timesteps ?? []).map((t) => `t = ${t}`)];
    return more.length ? `${name}: ${more.join(", ")}` : name;
  }

  #remove(text) {
    this.page.set({ columns: this.#texts(this.page.state).filter((other) => other !== text) });
  }

  async #read(mark) {
    const wanted = this.parts.flatMap((part) => this.infos.map((info) => ({ part, info })));
    const jobs = wanted.map(({ part, info }) => this.page.reader.features(part.asked, info));
    const answers = await this.page.reader.run(jobs, (i, features, error) => {
      const { part, info } = wanted[i];
      if (error) {
        part.cost.replaceChildren(element("p.message", {}, error.message));
        part.failed = true;
      } else if (info === this.infos[0]) {
        part.map = features.maps.length > 1 ? (features.maps.find((m) => m.name === part.map) ?? features.maps[0]).name : undefined;
        this.#tellCost(part, features);
      }
    });
    if (answers && mark === this.mark) await this.#show();
  }

  #tellCost(part, { maps, seconds, rows }) {
    const map = maps.find((m) => m.name === part.map) ?? maps[0];
    const bytes = maps.reduce((sum, m) => sum + m.bytes, 0);
    const facts = [
      ["map", map.shape.join(" × ")], ["denoiser rows", rows || "none"], ["seconds", seconds.toFixed(2)],
      ["features", `${(bytes / 1e6).toFixed(2)} MB`], ...(maps.length > 1 ? [["shown", `${map.name}, one of ${maps.length}`]] : []),
    ];
    part.cost.replaceChildren(...facts.map(([name, value]) => element("div.fact", {}, element("dt", {}, name), element("dd", {}, String(value)))));
  }

  async #show() {
    const { state } = this.page;
    this.click?.abort();
    this.click = new AbortController();
    const pointed = state.point && this.infos.some((info) => info.id === state.source);
    for (const part of this.parts.filter((each) => !each.failed)) {
      try {
        await (pointed ? this.#clicked(part, state) : this.#coloured(part));
      } catch (error) {
        if (wasCancelled(error)) return;
        part.cost.replaceChildren(element("p.message", {}, error.message));
      }
    }
    if (pointed) this.page.status.say("All columns show the same point.");
  }

  #body(part) {
    return { asked: part.asked, pictures: this.infos.map((info) => info.id), ...(part.map ? { map: part.map } : {}) };
  }

  async #clicked(part, state) {
    const found = await post("click", { ...this.#body(part), source: state.source, point: state.point }, this.click.signal);
    const heats = found.arrays.map((a) => a.values);
    const [floor, top] = [floorOf(heats, 0.6), topOf(heats, this.infos.findIndex((info) => info.id === state.source))];
    for (const [i, { shape: [height, width], values }] of found.arrays.entries()) {
      const box = part.boxes.get(this.infos[i].id);
      const { x, y, similarity } = found.matches[i];
      const source = this.infos[i].id === state.source;
      box.lay(heatPixels(values, width, height, floor, top));
      box.mark([source ? { x: state.point[0], y: state.point[1], kind: "source" } : { x, y, kind: "match" }]);
      box.note.textContent = source ? "" : `${Math.round(x)}, ${Math.round(y)} · ${similarity.toFixed(3)}`;
      box.figure.classList.toggle("is-source", source);
    }
  }

  async #coloured(part) {
    const answer = await post("pca", this.#body(part), this.click.signal);
    for (const [i, { shape: [rows, columns], values }] of answer.arrays.entries()) {
      const { frame } = this.page.reader.known(this.page.reader.features(part.asked, this.infos[i]));
      part.boxes.get(this.infos[i].id).lay(rgbPixels(values, columns, rows), contentOf(frame, columns, rows));
    }
  }

  leaving() {
    const { state } = this.page;
    const pointed = state.point && this.infos.some((info) => info.id === state.source);
    const what = pointed ? { of: "similarity", source: state.source, point: state.point } : { of: "pca" };
    return this.parts.map((part) => ({ title: this.#title(part), ...this.#body(part), ...what }));
  }

  async pngs() {
    const boxes = this.parts.flatMap((part, i) => [...part.boxes.values()].map((box) => [i + 1, box]));
    return Promise.all(boxes.map(async ([i, box]) => [`${box.info.name.split("/").pop().replace(/\.\w+$/, "")}-${i}.png`, await box.png()]));
  }
}
