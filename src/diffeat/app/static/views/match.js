// Match: points, boxes and a rough mask of one picture, found in another; corrected by dragging, kept as own data.
import { get, post, wasCancelled } from "../lib/api.js";
import { PALETTE } from "../lib/colours.js";
import { element, labelled, later } from "../lib/dom.js";
import { askedOf } from "../lib/state.js";
import { Marker, readMarks, writeMarks } from "../lib/marks.js";

const MODES = [["points", "Points"], ["boxes", "Boxes"], ["mask", "Mask"]];
// What stays when views and pairs change: what was kept, and masks by picture.
const kept = { pictures: new Map(), pairs: [] };
const painted = new Map();

export default {
  id: "match",
  title: "Match",
  mount: (root, page) => new Match(root, page),
};

const PAUSE = 60; // milliseconds

class Match {
  constructor(root, page) {
    this.page = page;
    this.ids = "";
    this.found = { points: {}, boxes: {} };
    this.classes = ["object"];
    this.label = 1;
    this.modes = element(
      "div.segments", { role: "group", "aria-label": "What is marked" },
      ...MODES.map(([mode, title]) => element("button", { type: "button", "data-mode": mode, onclick: () => page.set({ mark: mode }) }, title)),
    );
    this.classOf = element("select", { onchange: () => (this.label = Number(this.classOf.value)) });
    this.newClass = element("input", { type: "text", maxlength: 80, placeholder: "new class", "aria-label": "Name of a new class", onchange: () => this.#addClass() });
    this.brush = element("input", { type: "range", min: 1, max: 20, value: 5 });
    this.painting = element("div.bar", {}, labelled("Class", this.classOf), this.newClass, labelled("Brush", this.brush));
    this.swap = element("button", { type: "button", onclick: () => this.#swap() }, "Swap");
    this.suggest = element("button", { type: "button", onclick: () => this.#suggest() }, "Suggest points");
    this.clear = element("button", { type: "button", onclick: () => this.#clear() }, "Clear");
    this.pair = element("div.pair-of-pictures");
    this.table = element("table.matches", {}, element("caption.unseen", {}, "Points and where they are found"));
    this.hint = element("p.legend");
    this.count = element("span.hint");
    this.add = element("button", { type: "button", onclick: () => this.#keepPair() }, "Add pair to set");
    this.save = element("button", { type: "button", onclick: () => this.#save("marks") }, "Save set as zip");
    this.write = element("button", { type: "button", hidden: true, onclick: () => this.#save("marks/keep") }, "Write set to folder");
    root.append(
      element("div.bar", {}, this.modes, this.suggest, this.swap, this.clear, this.hint),
      this.painting, this.pair, element("div.wide", {}, this.table),
      element("div.bar", { role: "group", "aria-label": "Data of your own" }, this.add, this.save, this.write, this.count),
    );
    this.send = later(PAUSE, () => this.#find());
    this.#listClasses();
    get("marks").then(({ folder }) => { this.write.hidden = !folder; this.write.title = folder ?? ""; }, () => {});
  }

  unmount() {
    this.page.reader.cancel();
    this.asking?.abort();
  }

  async update(state) {
    const shown = state.pictures ?? [];
    const source = state.source ?? shown[0];
    const target = shown.includes(state.target) && state.target !== source ? state.target : shown.find((id) => id !== source);
    if (!target) {
      this.ids = "";
      this.pair.replaceChildren(element("p.hint", {}, "Choose two pictures at the left."));
      return;
    }
    await this.#layOut(source, target);
    this.mode = state.mark ?? "points";
    for (const button of this.modes.children) button.setAttribute("aria-pressed", String(button.dataset.mode === this.mode));
    this.painting.hidden = this.mode !== "mask";
    this.suggest.hidden = this.mode !== "points";
    this.hint.textContent = {
      points: "Click the left picture; drag what is found to correct it.",
      boxes: "Drag a box on the left picture.",
      mask: "Paint on the left picture; class 0 takes away.",
    }[this.mode];
    this.source.points = readMarks(state.marks, 2);
    this.source.boxes = readMarks(state.boxes, 4);
    this.target.fixed = readMarks(state.fixed, 2);
    this.source.mode = this.mode;
    const asked = JSON.stringify([askedOf(state), this.ids]);
    if (asked !== this.asked) {
      this.asked = asked;
      this.found = { points: {}, boxes: {} };
      const { reader, status } = this.page;
      const jobs = this.infos.map((info) => reader.features(askedOf(state), info));
      if ((await reader.run(jobs, (_k, _answer, error) => error && status.wrong(error))) === null) {
        this.asked = "";
        return;
      }
    }
    this.#draw();
    this.send();
  }

  async #layOut(source, target) {
    if (this.ids === `${source} ${target}`) return;
    this.ids = `${source} ${target}`;
    const infos = await this.page.gallery.known([source, target]);
    if (infos.length < 2) throw new Error("One of the two pictures cannot be read. Choose another.");
    const [left, right] = (this.infos = infos);
    this.source = new Marker(left, {
      moved: (name, place) => this.#set("marks", { ...this.source.points, [name]: place }),
      added: (place) => this.#set("marks", { ...this.source.points, [free(this.source.points)]: place }),
      boxed: (box) => this.#set("boxes", { ...this.source.boxes, [free(this.source.boxes, "box ")]: box }),
      painted: () => this.send(),
      brush: () => [Number(this.brush.value) / 100, this.label],
    });
    this.source.paintOn(painted.get(source) ?? painted.set(source, this.source.labels).get(source));
    this.target = new Marker(right, { moved: (name, place) => this.#set("fixed", { ...this.target.fixed, [name]: place }) });
    this.pair.replaceChildren(this.source.box.figure, this.target.box.figure);
  }

  #set(what, marks) {
    this.page.set({ [what]: writeMarks(marks) || undefined });
  }

  #swap() {
    const [source, target] = this.ids.split(" ");
    const places = { ...this.#places() };
    this.page.set({ source: target, target: source, marks: writeMarks(places) || undefined, fixed: undefined, boxes: undefined });
  }

  #clear() {
    this.source?.wipe();
    this.page.set({ marks: undefined, fixed: undefined, boxes: undefined });
  }

  #places() {
    // Where the points lie in the target: corrected, else found.
    const { points } = this.found;
    return Object.fromEntries(
      Object.keys(this.source.points).filter((n) => this.target.fixed[n] ?? points[n])
        .map((n) => [n, this.target.fixed[n] ?? [points[n].x, points[n].y]]),
    );
  }

  #body() {
    const { map } = this.page.state;
    return { asked: askedOf(this.page.state), ...(map ? { map } : {}) };
  }

  #marks(marker, points) {
    const mask = marker.mask();
    return { picture: marker.info.id, points, boxes: marker.boxes, ...(mask ? { mask } : {}) };
  }

  #find() {
    return (this.finding = this.#search());
  }

  async #settled() {
    // What is kept is the answer to the last question, not to the one before; a question waits as long as this before it is put.
    await new Promise((done) => setTimeout(done, PAUSE));
    for (let last; last !== this.finding; ) await (last = this.finding);
  }

  async #search() {
    const marks = this.#marks(this.source, this.source.points);
    if (!marks.mask && !Object.keys(marks.points).length && !Object.keys(marks.boxes).length) {
      this.found = { points: {}, boxes: {} };
      this.target.show(null);
      this.#draw();
      return;
    }
    this.asking?.abort();
    this.asking = new AbortController();
    const ids = this.ids;
    try {
      const found = await post("transfer", { ...this.#body(), source: marks, target: this.target.info.id }, this.asking.signal);
      if (ids !== this.ids) return;
      this.found = found;
      this.target.show(found.arrays);
      this.page.status.done(this.#told());
      this.#draw();
    } catch (error) {
      if (!wasCancelled(error)) this.page.status.wrong(error);
    }
  }

  #told() {
    const points = Object.values(this.found.points);
    if (!points.length) return "Found.";
    return `${points.length} points found, ${points.filter((p) => p.mutual).length} mutual.`;
  }

  async #suggest() {
    try {
      const { source, target } = { source: this.source.info.id, target: this.target.info.id };
      const found = await post("suggest", { ...this.#body(), source, target, count: 12 });
      if (!found.source.length) throw new Error("No places of the two pictures choose each other.");
      this.#set("marks", Object.fromEntries(found.source.map((place, k) => [String(k + 1), place])));
    } catch (error) {
      this.page.status.wrong(error);
    }
  }

  #draw() {
    const names = Object.keys(this.source.points);
    const colour = (name) => PALETTE[names.indexOf(name) % PALETTE.length];
    const places = this.#places();
    this.source.draw(this.source.points, this.source.boxes, colour);
    this.target.draw(places, Object.fromEntries(Object.entries(this.found.boxes).filter(([, b]) => b.at).map(([n, b]) => [n, b.at])), colour);
    const head = ["point", "here", "there", "cosine", "way back", "confidence", ""];
    this.table.hidden = !names.length;
    this.table.replaceChildren(
      this.table.caption,
      element("thead", {}, element("tr", {}, ...head.map((h) => element("th", { scope: "col" }, h)))),
      element("tbody", {}, ...names.map((name) => this.#row(name, places[name], colour(name)))),
    );
    this.count.textContent = kept.pairs.length ? `${kept.pairs.length} pairs in the set` : "";
  }

  #row(name, place, colour) {
    const found = this.found.points[name];
    const corrected = name in this.target.fixed;
    const swatch = element("span.swatch", { "aria-hidden": "true" });
    swatch.style.background = colour;
    const called = element("input", { type: "text", value: name, maxlength: 80, "aria-label": `Name of point ${name}`, onchange: () => this.#rename(name, called.value) });
    const away = element("button.quiet", { type: "button", "aria-label": `Take point ${name} away`, onclick: () => this.#away(name) }, "×");
    const back = corrected
      ? element("button.quiet", { type: "button", onclick: () => this.#set("fixed", without(this.target.fixed, name)) }, "corrected · undo")
      : found ? (found.mutual ? "mutual" : "one way") : "";
    return element(
      "tr", {},
      element("th", { scope: "row" }, swatch, called), element("td", {}, told(this.source.points[name])), element("td", {}, told(place)),
      element("td", {}, found ? found.similarity.toFixed(3) : ""), element("td", {}, back),
      element("td", {}, found && !corrected ? found.confidence.toFixed(2) : ""), element("td", {}, away),
    );
  }

  #rename(name, wish) {
    const next = wish.trim();
    if (!next || next in this.source.points) return this.#draw();
    const renamed = (marks) => Object.fromEntries(Object.entries(marks).map(([n, p]) => [n === name ? next : n, p]));
    this.page.set({ marks: writeMarks(renamed(this.source.points)), fixed: writeMarks(renamed(this.target.fixed)) || undefined });
  }

  #away(name) {
    this.page.set({ marks: writeMarks(without(this.source.points, name)) || undefined, fixed: writeMarks(without(this.target.fixed, name)) || undefined });
  }

  #listClasses() {
    this.classOf.replaceChildren(
      element("option", { value: 0 }, "0 · nothing"),
      ...this.classes.map((name, k) => element("option", { value: k + 1 }, `${k + 1} · ${name}`)),
    );
    this.classOf.value = this.label;
  }

  #addClass() {
    const name = this.newClass.value.trim();
    if (name && name !== "background" && !this.classes.includes(name)) this.classes.push(name);
    if (this.classes.includes(name)) this.label = this.classes.indexOf(name) + 1;
    this.newClass.value = "";
    this.#listClasses();
  }

  #collected() {
    // What was kept, with the pair at hand.
    const pictures = new Map(kept.pictures);
    const pairs = [...kept.pairs];
    const places = this.#places();
    const here = this.#marks(this.source, this.source.points);
    const there = { picture: this.target.info.id, points: places, boxes: {} };
    for (const marks of [here, there]) {
      const old = pictures.get(marks.picture);
      const whole = { ...marks, points: { ...old?.points, ...marks.points }, boxes: { ...old?.boxes, ...marks.boxes } };
      if (!marks.mask && old?.mask) whole.mask = old.mask;
      if (whole.mask || Object.keys(whole.points).length || Object.keys(whole.boxes).length) pictures.set(marks.picture, whole);
    }
    const pair = [here.picture, there.picture];
    if (Object.keys(places).length && !pairs.some((p) => p.join() === pair.join())) pairs.push(pair);
    return { pictures, pairs };
  }

  async #keepPair() {
    await this.#settled();
    const { pictures, pairs } = this.#collected();
    kept.pictures = pictures;
    kept.pairs = pairs;
    this.page.status.done(`${pictures.size} pictures and ${pairs.length} pairs are in the set.`);
    this.#draw();
  }

  async #save(endpoint) {
    await this.#settled();
    const { pictures, pairs } = this.#collected();
    const ids = [...pictures.keys()];
    const painted = [...pictures.values()].some((marks) => marks.mask);
    const body = {
      pictures: [...pictures.values()],
      pairs: pairs.map((pair) => pair.map((id) => ids.indexOf(id))),
      classes: painted ? this.classes : [],
    };
    try {
      if (!ids.length) throw new Error("Nothing is marked yet.");
      const answer = await post(endpoint, body);
      if (answer instanceof Blob) download(answer, "marked.zip");
      this.page.status.done(answer instanceof Blob ? "Saved as marked.zip." : `Written to ${answer.folder}.`);
    } catch (error) {
      this.page.status.wrong(error);
    }
  }

  leaving() {
    if (!this.source) return [];
    const { info, points, boxes } = this.source;
    return [{ title: "Match", of: "transfer", ...this.#body(), source: info.id, pictures: [info.id, this.target.info.id], points, boxes }];
  }

  async pngs() {
    return Promise.all([this.source, this.target].map(async ({ info, box }) => [`${info.name.split("/").pop().replace(/\.\w+$/, "")}-match.png`, await box.png()]));
  }
}

function free(marks, prefix = "") {
  let number = 1;
  while (`${prefix}${number}` in marks) number++;
  return `${prefix}${number}`;
}

function without(marks, name) {
  return Object.fromEntries(Object.entries(marks).filter(([n]) => n !== name));
}

function told(place) {
  return place ? place.map((v) => v.toFixed(1)).join(", ") : "";
}

function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
