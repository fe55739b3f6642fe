// What one leaves with: Python, command, recipe, pictures, link.
import { post } from "./api.js";
import { element } from "./dom.js";
import { askedOf } from "./state.js";

export async function showLeave(page) {
  const { state } = page;
  const point = state.point && state.source ? { source: state.source, point: state.point } : {};
  const usual = { endpoint: "leave", body: { asked: askedOf(state), pictures: state.pictures, ...point } };
  const { endpoint, body } = page.view.leave?.() ?? usual;
  const dialog = document.getElementById("dialog");
  const close = element("button.quiet.close", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  dialog.replaceChildren(element("h2", { id: "dialog-title" }, "Take it with you"), close);
  try {
    const told = await post(endpoint, body);
    dialog.append(
      part("Python", told.python, "view.py"),
      part("Command line", told.command, null),
      part("Recipe", told.yaml, "recipe.yaml"),
      part("Link", location.href, null),
      element("div.saves", {}, element("button", { type: "button", onclick: () => savePictures(page) }, "Save the pictures as PNG")),
    );
  } catch (error) {
    dialog.append(element("p.message.wrong", { role: "alert" }, error.message));
  }
  dialog.showModal();
}

function part(title, text, file) {
  const copy = element("button.quiet", { type: "button" }, "Copy");
  copy.addEventListener("click", async () => {
    await navigator.clipboard?.writeText(text).then(() => (copy.textContent = "Copied"), () => (copy.textContent = "Select and copy"));
  });
  const save = file ? element("button.quiet", { type: "button", onclick: () => download(new Blob([text]), file) }, "Save") : null;
  return element(
    "section.part", {},
    element("h3", {}, title, element("span.saves", {}, copy, save)),
    element("pre", { tabindex: "0", "aria-label": title }, text.trimEnd()),
  );
}

async function savePictures(page) {
  for (const [name, blob] of await page.pngs()) download(blob, name);
}

function download(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
