// The pictures at the left: which of them are on the stage; more are dropped, pasted or chosen.
import { get, imageOf, remove, upload } from "./api.js";
import { element, later } from "./dom.js";

const PAGE = 24;
const MOST_SHOWN = 12;

export class Gallery {
  constructor(root, page) {
    this.root = root;
    this.page = page;
    this.infos = new Map();
    this.order = [];
    this.total = 0;
    this.find = "";
    this.list = element("ul.tiles");
    this.message = element("p.message", { role: "alert" });
    this.more = element("button.quiet", { type: "button", hidden: true, onclick: () => this.load(true) }, "More");
    const file = element("input", {
      type: "file", accept: "image/*", multiple: true, id: "file", class: "file", onchange: () => this.take(file.files),
    });
    this.search = element("input", {
      type: "search", placeholder: "Find by name", "aria-label": "Find pictures by name", hidden: true,
      oninput: later(200, () => { this.find = this.search.value; this.load(); }),
    });
    root.append(
      element("h2", {}, "Pictures"),
      this.search,
      this.list,
      this.more,
      element("label.drop", { for: "file" }, file, element("span", {}, "Drop, paste or ", element("u", {}, "choose"), " pictures")),
      this.message,
    );
    this.#listen();
  }

  #listen() {
    const over = (on) => document.body.classList.toggle("dropping", on);
    document.addEventListener("dragover", (event) => { event.preventDefault(); over(true); });
    document.addEventListener("dragleave", (event) => event.relatedTarget === null && over(false));
    document.addEventListener("drop", (event) => { event.preventDefault(); over(false); this.take(event.dataTransfer.files); });
    document.addEventListener("paste", (event) => event.clipboardData?.files.length && this.take(event.clipboardData.files));
  }

  async load(more = false) {
    const offset = more ? this.order.length : 0;
    const { pictures, total } = await get("pictures", { find: this.find, offset, limit: PAGE });
    this.order = more ? [...this.order, ...pictures] : pictures;
    this.total = total;
    for (const info of pictures) this.infos.set(info.id, info);
    this.search.hidden = total <= PAGE && !this.find;
    this.more.hidden = this.order.length >= total;
    this.draw();
  }

  async known(ids) {
    // Infos of ids, also of those that the list does not reach; those that are gone are told.
    const gone = [];
    for (const id of ids) {
      if (this.infos.has(id)) continue;
      try {
        this.infos.set(id, await get(`pictures/${encodeURIComponent(id)}`));
      } catch (error) {
        gone.push(error.message);
      }
    }
    if (gone.length) this.say(gone[0]);
    return ids.map((id) => this.infos.get(id)).filter((info) => info && !info.error);
  }

  usual() {
    return this.order.filter((info) => !info.error).slice(0, 4).map((info) => info.id);
  }

  draw() {
    const shown = this.page.state.pictures ?? [];
    this.list.replaceChildren(...this.order.map((info) => this.#tile(info, shown)));
  }

  #tile(info, shown) {
    const name = info.name.split("/").pop();
    if (info.error) return element("li.tile.broken", { title: info.error }, element("span.name", {}, name), element("span.hint", {}, info.error));
    const pressed = shown.includes(info.id);
    const button = element(
      "button.thumb",
      { type: "button", "aria-pressed": String(pressed), "aria-label": name, title: info.name, onclick: () => this.toggle(info.id) },
      element("img", { src: imageOf(info.id, 160), alt: "", width: 160, height: 120, loading: "lazy" }),
    );
    const away = info.uploaded
      ? element("button.away", { type: "button", "aria-label": `Take ${name} away`, onclick: () => this.forget(info.id) }, "×")
      : null;
    return element("li.tile", {}, button, away);
  }

  toggle(id) {
    const shown = this.page.state.pictures ?? [];
    if (shown.includes(id)) {
      if (shown.length > 1) this.page.set({ pictures: shown.filter((other) => other !== id), ...this.#withoutPoint(id) });
    } else if (shown.length >= MOST_SHOWN) this.say(`${MOST_SHOWN} pictures fit on the stage. Put one away first.`);
    else this.page.set({ pictures: [...shown, id] });
    this.draw();
  }

  #withoutPoint(id) {
    return this.page.state.source === id ? { source: undefined, point: undefined } : {};
  }

  async forget(id) {
    await remove(id);
    this.infos.delete(id);
    const shown = (this.page.state.pictures ?? []).filter((other) => other !== id);
    await this.load();
    this.page.set({ pictures: shown.length ? shown : this.usual(), ...this.#withoutPoint(id) });
    this.draw();
  }

  async take(files) {
    const { limits } = this.page.session;
    const added = [];
    this.say("");
    const faults = [];
    for (const file of files) {
      if (file.size > limits.bytes) {
        faults.push(`${file.name} is larger than ${limits.bytes >> 20} MB, the most that the page takes. Make it smaller first.`);
        continue;
      }
      try {
        added.push((await upload(file)).id);
      } catch (error) {
        faults.push(error.message);
      }
    }
    if (added.length) {
      await this.load();
      const shown = (this.page.state.pictures ?? []).filter((id) => !added.includes(id));
      this.page.set({ pictures: [...added, ...shown].slice(0, MOST_SHOWN) });
      this.draw();
    }
    this.say(faults.join(" "));
  }

  say(words) {
    this.message.textContent = words;
  }
}
