// Explore: a click lights what is similar, here and in all other pictures; colours, channels, statistics.
import { post, wasCancelled } from "../lib/api.js";
import { floorOf, heatPixels, rgbPixels, shadePixels, topOf } from "../lib/colours.js";
import { element } from "../lib/dom.js";
import { PictureBox, contentOf, fileName } from "../lib/picture.js";
import { Prepared } from "../lib/similarity.js";
import { askedOf } from "../lib/state.js";

const MODES = [["similarity", "Similarity"], ["pca", "PCA colours"], ["channel", "Channel"], ["picture", "Picture"]];
const HOVERED = 360; // pixels of the longer side at which similarity follows the pointer

export default {
  id: "explore",
  title: "Explore",
  mount: (root, page) => new Explore(root, page),
};

class Explore {
  constructor(root, page) {
    this.page = page;
    this.boxes = new Map();
    this.prepared = new Map();
    this.clicked = null;
    this.asked = this.shown = "";
    this.modes = element(
      "div.segments", { role: "group", "aria-label": "What is laid over the pictures" },
      ...MODES.map(([mode, title]) => element("button", { type: "button", "data-mode": mode, onclick: () => page.set({ show: mode }) }, title)),
    );
    this.channel = element("input", {
      type: "number", min: 0, step: 1, "aria-label": "Channel", onchange: () => page.set({ channel: Number(this.channel.value) || 0 }),
    });
    this.maps = element("select", { "aria-label": "Map", hidden: true, onchange: () => page.set({ map: this.maps.value, channel: undefined }) });
    this.legend = element("p.legend");
    this.grid = element("div.grid");
    this.facts = element("section.facts", { "aria-label": "Statistics of the activation" });
    root.append(element("div.bar", {}, this.modes, this.channel, this.maps, this.legend), this.grid, this.facts);
    this.grid.append(element("p.hint", {}, "Loading …"));
  }

  unmount() {
    this.page.reader.cancel();
    this.click?.abort();
  }

  async update(state) {
    await this.#layOut(state);
    const mode = state.show ?? "similarity";
    for (const button of this.modes.children) button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
    this.channel.hidden = mode !== "channel";
    this.channel.value = state.channel ?? 0;
    const asked = JSON.stringify([askedOf(state), state.pictures]);
    if (asked !== this.asked) {
      this.asked = asked;
      this.prepared.clear();
      this.clicked = null;
      this.shown = "";
      await this.#read(state);
    } else await this.#show(state);
  }

  async #layOut(state) {
    const ids = (state.pictures ?? []).join();
    if (ids === this.ids) return;
    this.ids = ids;
    const infos = await this.page.gallery.known(state.pictures ?? []);
    const old = this.boxes;
    this.boxes = new Map(
      infos.map((info) => [
        info.id,
        old.get(info.id) ?? new PictureBox(info, {
          onpoint: (x, y) => this.page.set({ source: info.id, point: [x, y], show: "similarity" }),
          onhover: (x, y) => this.#hover(info.id, x, y),
        }),
      ]),
    );
    this.infos = infos;
    this.grid.replaceChildren(...[...this.boxes.values()].map((box) => box.figure));
    this.grid.dataset.count = String(infos.length);
  }

  async #read(state) {
    const asked = askedOf(state);
    const mark = this.asked;
    let first = true;
    const infos = this.infos;
    const results = await this.page.reader.run(infos.map((info) => this.page.reader.features(asked, info)), (i, features, error) => {
      const info = infos[i];
      const box = this.boxes.get(info.id);
      box.note.textContent = error ? "" : this.#note(features);
      box.figure.classList.toggle("failed", Boolean(error));
      if (error) {
        box.note.textContent = error.message;
        this.page.status.wrong(error);
      } else if (first) {
        first = false;
        this.#offerMaps(features, state);
        this.#show(this.page.state, [info]); // the first picture does not wait for the others
      }
    });
    if (results === null || mark !== this.asked) return;
    this.shown = "";
    await this.#show(this.page.state);
    this.#statistics(this.page.state);
  }

  #note(features) {
    const [c, h, w] = (features.maps.find((m) => m.name === this.#map(features)) ?? features.maps[0]).shape;
    return `${c} × ${h} × ${w}`;
  }

  #offerMaps(features, state) {
    this.maps.hidden = features.maps.length < 2;
    this.maps.replaceChildren(...features.maps.map(({ name }) => element("option", { value: name }, name)));
    this.names = features.maps.map(({ name }) => name);
    if (features.maps.length > 1) this.maps.value = this.#map(features, state);
  }

  #map(features, state = this.page.state) {
    const names = features?.maps.map(({ name }) => name) ?? this.names ?? [];
    if (names.length < 2) return undefined;
    return names.includes(state.map) ? state.map : names[0];
  }

  #ready(state) {
    return this.infos.filter((info) => this.#features(info, state));
  }

  #features(info, state = this.page.state) {
    return this.page.reader.known(this.page.reader.features(askedOf(state), info));
  }

  async #show(state, infos = this.#ready(state)) {
    if (!infos.length) return;
    const mode = state.show ?? "similarity";
    const map = this.#map(this.#features(infos[0], state), state);
    const wish = JSON.stringify([mode, map, state.channel, state.source, state.point, infos.map((i) => i.id)]);
    if (wish === this.shown) return;
    this.shown = wish;
    this.click?.abort();
    this.click = new AbortController();
    try {
      if (mode === "similarity") await this.#showSimilarity(state, infos, map);
      else if (mode === "pca") await this.#showArrays("pca", {}, infos, map, rgbPixels);
      else if (mode === "channel") await this.#showArrays("channel", { channel: state.channel ?? 0 }, infos, map, shadePixels);
      else for (const box of this.boxes.values()) box.lay(null);
    } catch (error) {
      if (!wasCancelled(error)) this.page.status.wrong(error);
    }
    this.#marks(state, mode);
  }

  #body(infos, map) {
    return { asked: askedOf(this.page.state), pictures: infos.map((info) => info.id), ...(map ? { map } : {}) };
  }

  async #showSimilarity(state, infos, map) {
    if (!state.point || !infos.some((info) => info.id === state.source)) {
      this.clicked = null;
      for (const box of this.boxes.values()) box.lay(null);
      this.legend.textContent = "Click on a picture, or move over it.";
      return;
    }
    const found = await post("click", { ...this.#body(infos, map), source: state.source, point: state.point }, this.click.signal);
    const arrays = found.arrays.map((a) => a.values);
    const floor = floorOf(arrays, 0.6);
    const top = topOf(arrays, infos.findIndex((info) => info.id === state.source));
    for (const [i, { shape: [height, width], values }] of found.arrays.entries()) {
      this.boxes.get(infos[i].id).lay(heatPixels(values, width, height, floor, top));
    }
    this.clicked = { matches: found.matches, heats: found.arrays, floor, top, infos };
    this.legend.textContent = `cosine ${found.low.toFixed(2)} … ${found.high.toFixed(2)}`;
    const others = found.matches.filter((m) => m.picture !== state.source);
    const best = others.sort((a, b) => b.similarity - a.similarity)[0];
    const name = best && fileName(this.page.gallery.infos.get(best.picture));
    if (best) this.page.status.say(`Most similar: ${name} at ${Math.round(best.x)}, ${Math.round(best.y)} (cosine ${best.similarity.toFixed(3)}).`);
  }

  #marks(state, mode) {
    for (const [id, box] of this.boxes) {
      const marks = [];
      if (mode === "similarity" && this.clicked) {
        if (id === state.source) marks.push({ x: state.point[0], y: state.point[1], kind: "source" });
        else {
          const match = this.clicked.matches.find((m) => m.picture === id);
          if (match) marks.push({ ...match, kind: "match", label: match.similarity.toFixed(2) });
        }
      }
      box.mark(marks);
      box.figure.classList.toggle("is-source", mode === "similarity" && id === state.source && Boolean(state.point));
    }
  }

  async #showArrays(endpoint, more, infos, map, paint) {
    const answer = await post(endpoint, { ...this.#body(infos, map), ...more }, this.click.signal);
    for (const [i, { shape: [rows, columns], values }] of answer.arrays.entries()) {
      const { frame } = this.#features(infos[i]);
      this.boxes.get(infos[i].id).lay(paint(values, columns, rows), contentOf(frame, columns, rows));
    }
    this.legend.textContent = endpoint === "pca" ? "Equal colours mean equal content." : `${answer.low.toPrecision(3)} … ${answer.high.toPrecision(3)}`;
  }

  #prepare(info) {
    if (!this.prepared.has(info.id)) {
      const features = this.#features(info);
      if (!features?.arrays.length) return null;
      const scale = Math.min(1, HOVERED / Math.max(info.width, info.height));
      const [width, height] = [Math.max(1, Math.round(info.width * scale)), Math.max(1, Math.round(info.height * scale))];
      const { shape, values } = features.arrays[0];
      this.prepared.set(info.id, new Prepared(values, shape, features.frame, width, height));
    }
    return this.prepared.get(info.id);
  }

  #hover(id, x, y) {
    if ((this.page.state.show ?? "similarity") !== "similarity") return;
    this.hovered = x === null ? null : [id, x, y];
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.hovered) this.#follow(...this.hovered);
      else this.#back();
    });
  }

  #follow(id, x, y) {
    const source = this.#prepare(this.page.gallery.infos.get(id));
    if (!source) return;
    const descriptor = source.descriptor(x, y);
    const parts = this.infos.map((info) => [info, this.#prepare(info)]).filter(([, p]) => p && p.channels === source.channels);
    const all = parts.map(([, p]) => p.similarity(descriptor));
    const [floor, top] = [floorOf(all, 0.6), topOf(all, parts.findIndex(([info]) => info.id === id))];
    for (const [i, [info, p]] of parts.entries()) this.boxes.get(info.id).lay(heatPixels(all[i], p.width, p.height, floor, top));
    this.following = true;
  }

  #back() {
    if (!this.following) return;
    this.following = false;
    for (const box of this.boxes.values()) box.lay(null);
    if (!this.clicked) return;
    for (const [i, { shape: [height, width], values }] of this.clicked.heats.entries()) {
      this.boxes.get(this.clicked.infos[i].id)?.lay(heatPixels(values, width, height, this.clicked.floor, this.clicked.top));
    }
  }

  async #statistics(state) {
    const infos = this.#ready(state);
    if (!infos.length) return;
    const map = this.#map(null, state);
    try {
      const told = await post("statistics", this.#body(infos, map));
      const chips = told.top.map(({ channel, mean }) =>
        element("button.chip", { type: "button", title: `mean |x| ${mean.toPrecision(3)}`, onclick: () => this.page.set({ show: "channel", channel }) }, String(channel)),
      );
      this.facts.replaceChildren(
        element(
          "dl", {},
          fact("largest over median", told.peak.toPrecision(3)), fact("inequality of channels (Gini)", told.gini.toFixed(2)),
          fact("massive channels", told.massive.length ? told.massive.join(", ") : "none"),
          ...this.#measured(),
        ),
        element("p.chips", {}, element("span.hint", {}, "largest channels"), ...chips),
      );
      this.channel.max = told.channels - 1;
    } catch (error) {
      this.facts.replaceChildren(element("p.message", {}, error.message));
    }
  }

  #measured() {
    const { map } = this.page.panel;
    const values = map.values?.[map.chosen];
    if (!values) return [];
    return [fact("noise share", `${Math.round(100 * values.noise)} %`), fact("granularity", values.granularity.toFixed(2))];
  }

  leaving() {
    const { state } = this.page;
    const map = this.#map(null, state);
    const pointed = (state.show ?? "similarity") === "similarity" && state.point;
    const what = pointed ? { of: "similarity", source: state.source, point: state.point } : { of: "pca" };
    return [{ title: "", ...this.#body(this.infos, map), ...what }];
  }

  async pngs() {
    return Promise.all(this.infos.map(async (info) => [`${fileName(info).replace(/\.\w+$/, "")}-${this.page.state.show ?? "similarity"}.png`, await this.boxes.get(info.id).png()]));
  }
}

function fact(name, value) {
  return element("div.fact", {}, element("dt", {}, name), element("dd", {}, value));
}
