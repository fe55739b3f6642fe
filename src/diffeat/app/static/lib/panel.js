// What is read: recipe, activation, timestep, draws, text.
import { element, labelled } from "./dom.js";
import { ModelMap } from "./map.js";

export class Panel {
  constructor(root, page) {
    this.page = page;
    this.map = new ModelMap((activation) => page.set({ activation, map: undefined, channel: undefined }));
    this.measure = element("button.quiet.small", {
      type: "button", title: "Noise share, granularity and massive channels of every activation, on the pictures of the stage",
      onclick: () => this.#measure(),
    }, "Measure all");
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
      element("div.heading", {}, element("h3", {}, "Activation"), this.measure), this.map.root,
    );
  }

  async #measure() {
    const { state, reader, session } = this.page;
    const timestep = Number(state.timesteps?.[0] ?? this.facts().timesteps[0] ?? 50);
    const words = `Measuring all activations on ${state.pictures.length} pictures`;
    const body = { pictures: state.pictures, timestep: Math.min(timestep, session.flow ? 1000 : 999) };
    await reader.run([reader.job("measure", body, words)], (_, answer, error) => {
      if (error) this.page.status.wrong(error);
      else this.map.tell(answer);
    });
    this.page.follow();
  }

  begin() {
    const { recipes, flow } = this.page.session;
    if (flow) this.timestep.max = 1000;
    this.recipe.replaceChildren(...recipes.map((r) => element("option", { value: r.name }, r.name)));
    // Not awaited: the first picture does not wait for the map.
    this.ready = this.map.load().then(() => this.update(this.page.state)).catch((error) => this.page.status.wrong(error));
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
    if (this.map.every.length && chosen !== this.map.chosen) this.map.choose(chosen);
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
