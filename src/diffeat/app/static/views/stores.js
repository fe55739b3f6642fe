// Stores: names, the pictures most like one, and the click on features that are stored.
import { get, post, wasCancelled } from "../lib/api.js";
import { floorOf, heatPixels } from "../lib/colours.js";
import { element, labelled, later } from "../lib/dom.js";
import { PictureBox } from "../lib/picture.js";

const PAGE = 60;
const NEAREST = 11;

export default {
  id: "stores",
  title: "Stores",
  mount: (root, page) => new Stores(root, page),
};

class Stores {
  constructor(root, page) {
    this.page = page;
    this.boxes = new Map();
    this.start = 0;
    this.which = element("select", { onchange: () => page.set({ store: this.which.value, stored: undefined, spot: undefined, map: undefined }) });
    this.maps = element("select", { onchange: () => page.set({ map: this.maps.value || undefined }) });
    this.search = element("input", {
      type: "search", placeholder: "part of a name, or *.jpg", "aria-label": "Find by name",
      oninput: later(200, () => { this.start = 0; page.set({ find: this.search.value || undefined }); }),
    });
    this.about = element("p.legend");
    this.list = element("div.names", { role: "group", "aria-label": "Names" });
    this.before = element("button.quiet", { type: "button", onclick: () => this.#turn(-PAGE) }, "Earlier");
    this.after = element("button.quiet", { type: "button", onclick: () => this.#turn(PAGE) }, "Later");
    this.where = element("span.hint");
    this.legend = element("p.legend");
    this.grid = element("div.grid");
    root.append(
      element("div.bar", {}, labelled("Store", this.which), labelled("Map", this.maps), this.search, this.about),
      this.list, element("div.bar", {}, this.before, this.after, this.where, this.legend), this.grid,
    );
  }

  unmount() {
    this.asking?.abort();
  }

  async update(state) {
    if (!this.stores) {
      this.stores = (await get("stores")).stores;
      this.which.replaceChildren(...this.stores.map((s, k) => element("option", { value: k }, s.name)));
    }
    if (!this.stores.length) {
      this.list.replaceChildren();
      this.about.textContent = "No store was given. Start the page with diffeat app --store FOLDER.";
      return;
    }
    const number = Math.min(Number(state.store) || 0, this.stores.length - 1);
    const store = this.stores[number];
    this.which.value = number;
    this.path = `stores/${number}`;
    this.about.textContent = `${store.pictures.toLocaleString("en")} pictures · ${store.dtype}`;
    const names = ["", ...store.maps];
    this.maps.replaceChildren(...(store.maps.length > 1 ? names : store.maps).map((n) => element("option", { value: n }, n || "all maps")));
    this.maps.value = names.includes(state.map) ? state.map : store.maps.length > 1 ? "" : store.maps[0];
    if (document.activeElement !== this.search) this.search.value = state.find ?? "";
    const wish = JSON.stringify([number, state.find, this.start]);
    if (wish !== this.listed) {
      this.listed = wish;
      await this.#list(state);
    }
    await this.#look(state, store);
  }

  #turn(by) {
    this.start = Math.max(0, this.start + by);
    this.page.follow();
  }

  async #list(state) {
    const { names, total } = await get(`${this.path}/names`, { find: state.find ?? "", start: this.start, most: PAGE });
    this.before.disabled = !this.start;
    this.after.disabled = this.start + names.length >= total;
    this.where.textContent = total ? `${this.start + 1} to ${this.start + names.length} of ${total.toLocaleString("en")}` : "No name is like this.";
    this.list.replaceChildren(...names.map((name) => element("button", { type: "button", "data-name": name, onclick: () => this.#choose(name) }, name)));
  }

  #choose(name) {
    this.page.set({ stored: name, from: undefined, spot: undefined });
  }

  async #look(state, store) {
    for (const button of this.list.children) button.setAttribute("aria-pressed", String(button.dataset.name === state.stored));
    if (!state.stored) {
      this.grid.replaceChildren(element("p.hint", {}, "Choose a name to see the pictures most like it."));
      this.looked = "";
      return;
    }
    const map = state.map && store.maps.includes(state.map) ? state.map : undefined;
    const wish = JSON.stringify([this.path, state.stored, map]);
    if (wish !== this.looked) {
      this.looked = wish;
      this.asking?.abort();
      this.asking = new AbortController();
      const { signal } = this.asking;
      this.page.status.working("Looking for what is alike", 0, 1, () => this.asking.abort());
      try {
        const found = await post(`${this.path}/nearest`, { picture: state.stored, count: NEAREST, ...(map ? { map } : {}) }, signal);
        const all = [{ name: state.stored, cosine: 1 }, ...found.pictures];
        const infos = await Promise.all(all.map(({ name }) => get(`${this.path}/picture`, { name }, signal)));
        this.#layOut(infos, all);
        this.page.status.done(found.exact ? "" : "Found with an index; all other pictures were not compared one by one.");
      } catch (error) {
        this.looked = "";
        if (wasCancelled(error)) this.page.status.done("Cancelled.");
        else {
          this.page.status.done();
          this.page.status.wrong(error);
        }
        return;
      }
    }
    await this.#click(state, map ?? store.maps[0]);
  }

  #layOut(infos, all) {
    this.boxes = new Map(
      infos.map((info, k) => {
        const src = `api/${this.path}/image?${new URLSearchParams({ name: info.name, side: 512 })}`;
        const more = element("button.quiet", { type: "button", "aria-label": `Like ${info.name}`, onclick: () => this.#choose(info.name) }, "like this");
        const box = new PictureBox({ ...info, id: info.name }, { src, tools: k ? [more] : [], onpoint: (x, y) => this.page.set({ from: info.name, spot: [x, y].map((v) => v.toFixed(2)).join() }) });
        box.note.textContent = k ? all[k].cosine.toFixed(3) : "chosen";
        return [info.name, box];
      }),
    );
    this.grid.replaceChildren(...[...this.boxes.values()].map((box) => box.figure));
  }

  async #click(state, map) {
    for (const box of this.boxes.values()) {
      box.lay(null);
      box.mark([]);
    }
    this.legend.textContent = "Click on a picture.";
    const point = (state.spot ?? "").split(",").map(Number);
    if (point.length !== 2 || !point.every(Number.isFinite) || !this.boxes.has(state.from)) return;
    const names = [...this.boxes.keys()];
    try {
      const found = await post(`${this.path}/click`, { map, source: state.from, point, pictures: names });
      const floor = floorOf(found.arrays.map((a) => a.values), 0.6);
      for (const [i, { shape: [height, width], values }] of found.arrays.entries()) {
        const box = this.boxes.get(names[i]);
        box.lay(heatPixels(values, width, height, floor, 255));
        const match = found.matches[i];
        box.mark(names[i] === state.from ? [{ x: point[0], y: point[1], kind: "source" }] : [{ ...match, kind: "match" }]);
      }
      this.legend.textContent = `cosine ${found.low.toFixed(2)} … ${found.high.toFixed(2)}`;
    } catch (error) {
      this.page.status.wrong(error);
    }
  }

  leaving() {
    const { stored, map } = this.page.state;
    return this.stores?.length && stored ? [{ title: "Store", endpoint: `${this.path}/leave`, picture: stored, ...(map ? { map } : {}) }] : [];
  }

  async pngs() {
    return Promise.all([...this.boxes].map(async ([name, box]) => [`${name.split("/").pop().replace(/\.\w+$/, "")}-store.png`, await box.png()]));
  }
}
