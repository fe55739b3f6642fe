// The model as a map: its stages in order of execution, and in each what can be read.
import { get } from "./api.js";
import { element, later } from "./dom.js";

const ORDERS = [
  ["", "In order of execution"], ["noise", "Least noise first"], ["granularity", "Finest first"],
  ["concentration", "Most evenly spread first"],
];

export class ModelMap {
  constructor(onchoose) {
    this.onchoose = onchoose;
    this.every = [];
    this.shown = [];
    this.chosen = "";
    this.strip = element("div.strip", { role: "group", "aria-label": "Stages of the model" });
    this.list = element("div.sites");
    this.message = element("p.message", { role: "alert" });
    this.search = element("input", {
      type: "search", placeholder: "Search or glob: up_blocks.*.resnets.*", "aria-label": "Search activations",
      spellcheck: "false", oninput: later(150, () => this.find(this.search.value)),
    });
    this.order = element(
      "select", { "aria-label": "Order of activations", hidden: true, onchange: () => this.draw() },
      ...ORDERS.map(([value, title]) => element("option", { value }, title)),
    );
    this.measured = element("p.hint");
    this.root = element("div.map", {}, this.strip, this.search, this.order, this.measured, this.message, this.list);
  }

  tell({ on, values }) {
    // Properties that were measured, by id.
    this.values = values;
    this.order.hidden = false;
    this.measured.textContent = `Measured on ${on.pictures} pictures at t = ${on.timestep}, ${on.draws} draws.`;
    this.draw();
  }

  async load() {
    this.every = this.shown = (await get("activations")).activations;
    this.draw();
  }

  async find(text) {
    this.message.textContent = "";
    try {
      this.shown = text.trim() ? (await get("activations", { find: text })).activations : this.every;
      if (!this.shown.length) this.message.textContent = `Nothing here is called ${text}.`;
    } catch (error) {
      this.shown = [];
      this.message.textContent = error.message;
    }
    this.draw(Boolean(text.trim()));
  }

  choose(id) {
    this.chosen = this.every.find((a) => a.id === id || a.aliases.includes(id))?.id ?? id;
    this.draw(Boolean(this.search.value.trim()));
    const row = this.list.querySelector(".site[aria-pressed=true]");
    if (row) this.list.scrollTop = Math.max(0, row.closest("li").offsetTop - this.list.clientHeight / 3);
  }

  stages(activations) {
    const stages = new Map();
    for (const a of activations) {
      if (!stages.has(a.stage)) stages.set(a.stage, []);
      stages.get(a.stage).push(a);
    }
    return stages;
  }

  draw(open = false) {
    const here = this.every.find((a) => a.id === this.chosen)?.stage;
    this.#drawStrip(here);
    const by = this.order.value;
    if (by) {
      const known = this.shown.filter((a) => this.values[a.id]?.[by] !== undefined);
      const sign = by === "granularity" ? -1 : 1;
      known.sort((a, b) => sign * (this.values[a.id][by] - this.values[b.id][by]));
      this.list.replaceChildren(element("ul.rows", {}, ...known.map((a) => this.#row(a, true))));
      return;
    }
    this.list.replaceChildren(
      ...[...this.stages(this.shown)].map(([stage, activations]) => this.#stage(stage, activations, open || stage === here)),
    );
  }

  #drawStrip(here) {
    const stages = [...this.stages(this.every)];
    const cells = stages.map(([, list]) => Math.max(...list.map((a) => (a.grid ? a.grid[0] : 1))));
    const most = Math.max(...cells, 1);
    this.strip.replaceChildren(
      ...stages.map(([stage, list], i) => {
        const bar = element("button.stage-bar", {
          type: "button", title: `${stage}: ${list.length} activations`, "aria-label": `Stage ${stage}`,
          "aria-current": stage === here ? "true" : "false",
          onclick: () => this.#open(stage),
        });
        bar.style.setProperty("--height", `${18 + 82 * (cells[i] / most)}%`);
        return bar;
      }),
    );
  }

  #open(stage) {
    const part = [...this.list.children].find((each) => each.dataset.stage === stage);
    if (!part) return;
    part.open = true;
    this.list.scrollTop = part.offsetTop;
    part.querySelector("summary").focus({ preventScroll: true });
  }

  #stage(stage, activations, open) {
    const sizes = activations.find((a) => a.grid)?.grid;
    const rows = element("ul.rows");
    const part = element(
      "details.stage-part",
      { open },
      element(
        "summary", {}, element("span.stage-name", {}, stage),
        element("span.hint", {}, `${sizes ? `${sizes[1]}×${sizes[0]} · ` : ""}${activations.length}`),
      ),
      rows,
    );
    part.dataset.stage = stage;
    const fill = () => rows.children.length || rows.append(...activations.map((a) => this.#row(a)));
    if (open) fill();
    part.addEventListener("toggle", () => part.open && fill());
    return part;
  }

  #row(a, whole = false) {
    const readable = a.grid || a.kind === "map";
    const short = whole ? a.id : a.id.replace(/^(down_blocks|up_blocks|mid_block|transformer_blocks|single_transformer_blocks)\.?\d*\.?/, "") || a.id;
    const measured = this.values?.[a.id];
    const button = element(
      "button.site",
      {
        type: "button", title: [a.id, ...a.aliases].join("\n"), disabled: !readable,
        "aria-pressed": String(a.id === this.chosen), onclick: () => this.onchoose(a.id),
      },
      element("span.site-name", {}, short),
      element(
        "span.site-facts", {},
        `${a.kind} · ${a.channels}${a.grid ? ` × ${a.grid[0]} × ${a.grid[1]}` : ""}${a.heads ? ` · ${a.heads} heads` : ""}`,
      ),
      measured ? element("span.site-facts", {}, `noise ${percent(measured.noise)} · granularity ${measured.granularity.toFixed(2)}${measured.massive ? ` · ${measured.massive} massive` : ""}`) : null,
      element("span.depth", { title: `${Math.round(a.depth * 100)} % of the model's operations` }),
    );
    button.style.setProperty("--depth", `${a.depth * 100}%`);
    return element("li", {}, button);
  }
}

function percent(share) {
  return `${Math.round(100 * share)} %`;
}
