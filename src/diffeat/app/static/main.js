// The page: state in the address bar, parts that follow it.
import { get } from "./lib/api.js";
import { element } from "./lib/dom.js";
import { Gallery } from "./lib/gallery.js";
import { showLeave } from "./lib/leave.js";
import { Panel } from "./lib/panel.js";
import { Reader } from "./lib/reader.js";
import { askedOf, readAddress, writeAddress } from "./lib/state.js";
import { Status } from "./lib/status.js";
import { VIEWS } from "./views/index.js";

class Page {
  constructor() {
    this.state = readAddress();
    this.status = new Status();
    this.reader = new Reader(this.status);
    this.stage = document.getElementById("stage");
    this.gallery = new Gallery(document.getElementById("gallery"), this);
    this.panel = new Panel(document.getElementById("panel"), this);
    this.view = null;
  }

  async begin() {
    try {
      this.session = await get("session");
      const { model, family, device, precision } = this.session;
      document.getElementById("model").textContent = `${model} · ${family} · ${device}, ${precision}`;
      this.panel.begin();
      await this.gallery.load();
    } catch (error) {
      this.status.wrong(error);
      return;
    }
    for (const fault of this.session.passed.slice(0, 1)) this.gallery.say(`Passed over: ${fault}`);
    document.getElementById("leave").addEventListener("click", () => showLeave(this));
    window.addEventListener("hashchange", () => {
      this.state = readAddress();
      this.#complete().then(() => this.follow());
    });
    await this.#complete();
    this.follow();
  }

  async #complete() {
    const infos = await this.gallery.known(this.state.pictures ?? []);
    this.state.pictures = infos.length ? infos.map((info) => info.id) : this.gallery.usual();
    if (!this.state.pictures.includes(this.state.source)) this.state.source = this.state.point = undefined;
  }

  set(changes) {
    this.state = { ...this.state, ...changes };
    this.follow();
  }

  follow() {
    writeAddress(this.state);
    this.#mount(VIEWS.find((view) => view.id === this.state.view) ?? VIEWS[0]);
    this.panel.update(this.state);
    this.gallery.draw();
    Promise.resolve(this.view.update(this.state)).catch((error) => this.status.wrong(error));
  }

  leaving() {
    // What the view is made of: bodies for /api/leave, each with a title.
    return this.view.leaving?.() ?? [{ title: "", asked: askedOf(this.state), pictures: this.state.pictures }];
  }

  pngs() {
    return this.view.pngs?.() ?? [];
  }

  #mount(view) {
    if (this.mounted === view.id) return;
    this.view?.unmount();
    this.stage.replaceChildren();
    this.mounted = view.id;
    this.view = view.mount(this.stage, this);
    document.getElementById("views").replaceChildren(
      ...VIEWS.map((each) =>
        element("button", { type: "button", "aria-current": each === view ? "page" : "false", onclick: () => this.set({ view: each.id }) }, each.title),
      ),
    );
  }
}

function theme() {
  const button = document.getElementById("theme");
  const dark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const say = () => (button.textContent = dark() ? "☀" : "☾");
  document.documentElement.dataset.theme = localStorage.getItem("theme") ?? "";
  if (!document.documentElement.dataset.theme) delete document.documentElement.dataset.theme;
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = dark() ? "light" : "dark";
    localStorage.setItem("theme", document.documentElement.dataset.theme);
    say();
  });
  say();
}

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address bar holds the view
  document.getElementById("stage").focus();
});
theme();
window.page = new Page();
window.page.begin();
