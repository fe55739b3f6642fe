// What is looked at, in the address bar: a link shows it again.

const LISTS = new Set(["pictures", "timesteps", "columns", "words"]);
const NUMBERS = new Set(["draws", "size", "channel", "seed", "parts"]);

export function readAddress() {
  const state = {};
  for (const [name, text] of new URLSearchParams(location.hash.slice(1))) {
    if (LISTS.has(name)) state[name] = text ? text.split("|") : [];
    else if (NUMBERS.has(name)) state[name] = Number.isFinite(Number(text)) ? Number(text) : undefined;
    else if (name === "point") {
      const [x, y] = text.split(",").map(Number);
      if (Number.isFinite(x) && Number.isFinite(y)) state.point = [x, y];
    } else state[name] = text;
  }
  return state;
}

export function writeAddress(state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    if (value === undefined || value === null || value === "") continue;
    query.set(name, LISTS.has(name) ? value.join("|") : name === "point" ? value.map(rounded).join(",") : String(value));
  }
  const hash = `#${query}`;
  if (hash !== location.hash) history.replaceState(null, "", hash);
}

function rounded(value) {
  return String(Math.round(value * 100) / 100);
}

export function columnText(asked, map = undefined) {
  // Which features, as a text for the address bar.
  const parts = { a: asked.activations?.join(","), t: asked.timesteps?.join(","), d: asked.draws, s: asked.size, p: asked.prompt, m: map };
  const told = Object.entries(parts).filter(([, v]) => v !== undefined && v !== "");
  return [encodeURIComponent(asked.recipe ?? ""), ...told.map(([k, v]) => `${k}=${encodeURIComponent(v)}`)].join(";");
}

export function columnOf(text) {
  // {asked, map} of such a text.
  const [recipe, ...parts] = text.split(";");
  const told = Object.fromEntries(parts.map((part) => part.split("=").map(decoded)));
  const asked = { recipe: decoded(recipe) };
  if (told.a) asked.activations = told.a.split(",");
  if (told.t) asked.timesteps = told.t.split(",").map(Number);
  if (told.d) asked.draws = Number(told.d);
  if (told.s) asked.size = Number(told.s);
  if (told.p !== undefined) asked.prompt = told.p;
  return { asked, map: told.m };
}

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function askedOf(state) {
  // The body's `asked` of a state: which features.
  const asked = {};
  if (state.recipe) asked.recipe = state.recipe;
  if (state.activation) asked.activations = [state.activation];
  if (state.timesteps?.length) asked.timesteps = state.timesteps.map(Number);
  if (state.draws) asked.draws = state.draws;
  if (state.size) asked.size = state.size;
  if (state.seed !== undefined) asked.seed = state.seed;
  if (state.prompt !== undefined) asked.prompt = state.prompt;
  return asked;
}
