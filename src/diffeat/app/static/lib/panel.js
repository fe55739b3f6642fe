// What is read: recipe, activation, timestep, draws, text.
import { element, labelled, later } from "./dom.js";
import { ModelMap } from "./map.js";

export class Panel {
  constructor(root, page) {
    this.page = page;
    this.map = new ModelMap((activation) => page.set({ activation, map: undefined, channel: undefined }));
    this.recipe = element("select", { onchange: () => this.#choose(this.recipe.value) });
    this.about = element("p.hint");
    this.timestep = element("input", {
      type: "range", min: 0, max: 999, step: 1, oninput: () => this.#says(),
      onchange: () => page.set({ timesteps: [this.timestep.value] }),
    });
    this.time = element("output");
    this.draws = element("input", {
      type: "number", min: 1, max: 64, step: 1, onchange: () => page.set({ draws: this.#number(this.draws) }),
    });
    this.size = element("input", {
      type: "number", min: 64, max: 2048, step: 32, onchange: () => page.set({ size: this.#number(this.size) }),
    });
    this.prompt = element("input", {
      type: "text", placeholder: "a cat on a sofa", maxlength: 2000, onchange: () => page.set({ prompt: this.prompt.value }),
    });
    this.settings = element(
      "fieldset.settings", {},
      element("legend.unseen", {}, "Settings"),
      labelled("Timestep", element("span.pair", {}, this.timestep, this.time)),
      element("div.two", {}, labelled("Draws", this.draws), labelled("Longer side", this.size)),
      labelled("Text", this.prompt),
    );
    root.append(
      element("h2", {}, "What is read"),
      labelled("Recipe", this.recipe), this.about, this.settings,
      element("h3", {}, "Activation"), this.map.root,
    );
    this.later = later(0, () => {});
  }

  async load() {
    const { recipes, flow } = this.page.session;
    if (flow) this.timestep.max = 1000;
    this.recipe.replaceChildren(...recipes.map((r) => element("option", { value: r.name }, r.name)));
    await this.map.load();
  }

  facts(state = this.page.state) {
    const { recipes } = this.page.session;
    return recipes.find((r) => r.name === state.recipe) ?? recipes[0];
  }

  update(state) {
    const recipe = this.facts(state);
    const own = recipe.model !== undefined && recipe.changes;
    this.recipe.value = recipe.name;
    this.about.textContent = recipe.description || recipe.kind;
    this.settings.disabled = !own;
    this.settings.hidden = !own;
    this.map.root.hidden = recipe.model !== this.page.session.model;
    this.map.root.previousElementSibling.hidden = this.map.root.hidden;
    if (own) {
      this.timestep.value = state.timesteps?.[0] ?? recipe.timesteps[0] ?? 0;
      this.draws.value = state.draws ?? recipe.draws;
      this.size.value = state.size ?? recipe.size ?? "";
      this.prompt.value = state.prompt ?? recipe.prompt ?? "";
      this.#says();
    }
    const chosen = state.activation ?? (recipe.activations?.length === 1 ? recipe.activations[0] : "");
    if (chosen !== this.map.chosen) this.map.choose(chosen);
  }

  #says() {
    this.time.textContent = `t = ${this.timestep.value}`;
  }

  #number(input) {
    return input.value && input.checkValidity() ? Number(input.value) : undefined;
  }

  #choose(recipe) {
    const none = { activation: undefined, timesteps: undefined, draws: undefined, prompt: undefined, size: undefined };
    this.page.set({ recipe, ...none, map: undefined, channel: undefined });
  }
}
