"use strict";
// Elements. All text enters the page here, and as text alone.

function element(name, properties = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key in made && key !== "list") made[key] = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return made;
}

// A choice among [value, label] pairs.
function choice(label, key, options, value, change) {
  const select = element(
    "select",
    { id: `choose-${key}`, onchange: (event) => change(event.target.value) },
    options.map(([v, text]) =>
      element("option", { value: v, selected: String(v) === value }, text),
    ),
  );
  return element("label", {}, element("span", {}, label), select);
}

function table(heads, rows, className = "") {
  const cell = (kind) => (text, i) =>
    element(i ? kind : "th", { scope: i ? undefined : "row", className: i ? "number" : "" }, text);
  return element(
    "div",
    { className: `scrolls ${className}`, tabIndex: 0 },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, heads.map(cell("th")))),
      element(
        "tbody",
        {},
        rows.map((row) => element("tr", {}, row.map(cell("td")))),
      ),
    ),
  );
}

const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
