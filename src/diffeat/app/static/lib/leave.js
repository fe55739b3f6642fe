// What one leaves with: Python, command, recipe, pictures, link.
import { post } from "./api.js";
import { element } from "./dom.js";

export async function showLeave(page) {
  const dialog = document.getElementById("dialog");
  const close = element("button.quiet.close", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, "×");
  dialog.replaceChildren(element("h2", { id: "dialog-title" }, "Take it with you"), close);
  try {
    const views = page.leaving();
    for (const [i, { title, endpoint = "leave", ...view }] of views.entries()) {
      const told = await post(endpoint, view);
      const more = views.length > 1 ? ` · ${title}` : "";
      dialog.append(
        part(`Python${more}`, told.python, `view${i || ""}.py`),
        part(`Command line${more}`, told.command, null),
        part(`Recipe${more}`, told.yaml, "recipe.yaml"),
      );
    }
  } catch (error) {
    dialog.append(element("p.message.wrong", { role: "alert" }, error.message));
  }
  dialog.append(
    part("Link", location.href, null),
    element("div.saves", {}, element("button", { type: "button", onclick: () => savePictures(page) }, "Save the pictures as PNG")),
  );
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
