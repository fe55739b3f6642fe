// Elements without a framework: element("button.quiet", {type: "button", onclick}, "text", child …)

export function element(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

export function labelled(text, input, hint = null) {
  const label = element("label.field", {}, element("span.field-name", {}, text), input);
  if (hint) label.append(element("span.hint", {}, hint));
  return label;
}

export function shortened(text, most) {
  if (text.length <= most) return text;
  return `${text.slice(0, Math.floor(most / 2))}…${text.slice(text.length - Math.ceil(most / 2) + 1)}`;
}

export function later(wait, action) {
  // Runs the action once nothing was asked for during `wait` milliseconds.
  let timer = 0;
  return (...given) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...given), wait);
  };
}
