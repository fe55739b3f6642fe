// Strips: one picture over timesteps or over layers, in colours or under a click.
import { floorOf, heatPixels, rgbPixels } from "../lib/colours.js";
import { element } from "../lib/dom.js";
import { PictureBox, contentOf, fileName } from "../lib/picture.js";
import { askedOf } from "../lib/state.js";

const KINDS = new Set(["stage", "block", "resnet", "vit"]);
const MOST = 16;
const TIMES = 8;

export default {
  id: "strips",
  title: "Strips",
  mount: (root, page) => new Strips(root, page),
};

class Strips {
  constructor(root, page) {
    this.page = page;
    this.along = element(
      "div.segments", { role: "group", "aria-label": "Along" },
      ...[["timesteps", "Timesteps"], ["layers", "Layers"]].map(([along, title]) =>
        element("button", { type: "button", "data-along": along, onclick: () => page.set({ along }) }, title)),
    );
    this.find = element("input", {
      type: "search", placeholder: "Which layers: up_blocks.*.resnets.*", "aria-label": "Which layers", spellcheck: "false",
      onchange: () => page.set({ find: this.find.value }),
    });
    this.legend = element("p.legend");
    this.message = element("p.message", { role: "alert" });
    this.tiles = element("div.strip-tiles");
    root.append(element("div.bar", {}, this.along, this.find, this.legend), this.message, this.tiles);
  }

  unmount() {
    this.page.reader.cancel();
  }

  async update(state) {
    const along = state.along ?? "timesteps";
    for (const button of this.along.children) button.setAttribute("aria-pressed", String(button.dataset.along === along));
    this.find.hidden = along !== "layers";
    this.find.value = state.find ?? "";
    this.message.textContent = "";
    if (along === "layers") await this.page.panel.ready;
    const infos = await this.page.gallery.known(state.pictures ?? []);
    if (!infos.length) return;
    const source = infos.find((info) => info.id === state.source && state.point) ?? null;
    const shown = source ? (infos.find((info) => info !== source) ?? source) : infos[0];
    this.legend.textContent = source
      ? `${fileName(shown)}: what is similar to the point of ${fileName(source)}.`
      : `${fileName(shown)} in colours. Click on it, or pick a point in Explore.`;
    const steps = along === "timesteps" ? this.#times() : this.#layers(state);
    if (!steps.length) {
      this.message.textContent = `No layer is called ${state.find}.`;
      this.tiles.replaceChildren();
      return;
    }
    this.told = this.#whole(steps, shown, source, state, along);
    this.#layOut(steps, shown, source, state);
    await this.#read(steps, shown, source, state);
  }

  #times() {
    const most = this.page.session.flow ? 1000 : 999;
    return Array.from({ length: TIMES }, (_, i) => {
      const t = Math.round(most * (i / (TIMES - 1)) ** 1.6);
      return { title: `t = ${t}`, changes: { timesteps: [String(t)] } };
    });
  }

  #layers({ find }) {
    const { map } = this.page.panel;
    const named = find ? patternOf(find) : null;
    const every = map.every.filter((a) => a.grid && (named ? named.test(a.id) : KINDS.has(a.kind)));
    const step = Math.max(1, every.length / MOST);
    return Array.from({ length: Math.min(MOST, every.length) }, (_, i) => every[Math.floor(i * step)]).map((a) => ({
      title: a.id, hint: `${a.channels} × ${a.grid.join(" × ")}`, changes: { activation: a.id, map: undefined },
    }));
  }

  #whole(steps, shown, source, state, along) {
    const asked = along === "timesteps"
      ? { timesteps: steps.map((step) => Number(step.changes.timesteps[0])) }
      : { activations: steps.map((step) => step.changes.activation) };
    const point = source ? { source: source.id, point: state.point } : {};
    return { title: "", of: "strip", asked: { ...askedOf(state), ...asked }, pictures: [shown.id], ...point };
  }

  leaving() {
    return this.told ? [this.told] : [];
  }

  #layOut(steps, shown, source, state) {
    const mark = JSON.stringify([steps, shown.id]);
    if (mark !== this.mark) {
      this.mark = mark;
      this.boxes = steps.map(() => new PictureBox(shown, { side: 320, onpoint: (x, y) => this.page.set({ source: shown.id, point: [x, y] }) }));
      this.tiles.replaceChildren(
        ...steps.map(({ title, hint, changes }, i) => {
          const use = element("button.quiet.small", { type: "button", title: "Read this in Explore", onclick: () => this.page.set({ ...changes, view: "explore" }) }, "Use");
          this.boxes[i].figure.querySelector("figcaption").replaceChildren(element("span.name", { title }, title), this.boxes[i].note, use);
          if (hint) this.boxes[i].note.textContent = hint;
          return this.boxes[i].figure;
        }),
      );
    }
    for (const box of this.boxes) box.mark(source === shown ? [{ x: state.point[0], y: state.point[1], kind: "source" }] : []);
  }

  async #read(steps, shown, source, state) {
    const asked = askedOf(state);
    const pointed = source ? { source: source.id, point: state.point } : {};
    const along = state.along ?? "timesteps";
    const groups = along === "timesteps" ? steps.map((step, i) => [[step, i]]) : [steps.map((step, i) => [step, i])];
    const jobs = groups.map((group) => {
      const changed = along === "timesteps"
        ? { ...asked, timesteps: group[0][0].changes.timesteps.map(Number) }
        : { ...asked, activations: group.map(([step]) => step.changes.activation) };
      const words = along === "timesteps" ? `Reading ${group[0][0].title}` : `Reading ${group.length} layers in one pass`;
      return this.page.reader.job("strip", { asked: changed, picture: shown.id, ...pointed }, words);
    });
    await this.page.reader.run(jobs, (j, answer, error) => {
      if (error) {
        this.message.textContent = error.message;
        return;
      }
      for (const [k, [, i]] of groups[j].entries()) this.#paint(this.boxes[i], answer, k, source !== null, source === shown);
    });
  }

  #paint(box, answer, k, pointed, itself) {
    const { shape: [rows, columns], values } = answer.arrays[k];
    if (!pointed) box.lay(rgbPixels(values, columns, rows), contentOf(answer.frame, columns, rows));
    else {
      box.lay(heatPixels(values, columns, rows, floorOf([values], 0.6), 255));
      const { x, y, similarity } = answer.matches[k];
      box.note.textContent = itself ? "" : similarity.toFixed(3);
      if (!itself) box.mark([{ x, y, kind: "match" }]);
    }
  }

  async pngs() {
    return Promise.all(this.boxes.map(async (box, i) => [`${fileName(box.info).replace(/\.\w+$/, "")}-${i + 1}.png`, await box.png()]));
  }
}

function patternOf(text) {
  const escaped = text.trim().split("*").map((part) => part.replace(/[.+?^${}()|[\]\\]/g, "\\$&"));
  return new RegExp(text.includes("*") ? `^${escaped.join(".*")}$` : escaped.join(""));
}
