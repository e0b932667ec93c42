"use strict";
// All that can be done without a pointer.

const KEYS = [
  ["1, 2", "curves, responses"],
  ["[, ]", "the step before, the next step"],
  ["p, n", "the page before, the next page"],
  ["j, k", "the next response, the one before"],
  ["← →, Home, End", "along the tokens of a response, or along a curve"],
  ["Enter", "on a curve: the responses of that step"],
  ["/", "search"],
  ["c", "another meaning of the colors"],
  ["t", "light, dark, or as the system is"],
  ["?", "these keys"],
];

function showKeys() {
  const dialog = document.getElementById("keys");
  const close = element("button", { type: "button", onclick: () => dialog.close() }, "Close");
  const list = KEYS.flatMap(([key, told]) => [element("dt", {}, key), element("dd", {}, told)]);
  dialog.replaceChildren(element("h2", {}, "Keys"), element("dl", {}, list), close);
  dialog.showModal();
}

function turnTheme() {
  const order = ["", "light", "dark"];
  const root = document.documentElement;
  const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % order.length];
  setTheme(next);
  remember("theme", next);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = { light: "Light", dark: "Dark" }[theme] ?? "Auto";
  for (const u of charts) u.redraw(false, true);
}

// The token at the i-th place of a flow is where the reader is.
function stand(own, i) {
  const { response } = flows.get(own);
  const at = Math.max(0, Math.min(response.tokens.length - 1, i));
  if (at >= own.childElementCount) own.showTo(at + FIRST_TOKENS);
  for (const old of document.querySelectorAll(".tokens .here")) old.classList.remove("here");
  const token = own.children[at];
  if (!token) return;
  token.classList.add("here");
  token.scrollIntoView({ block: "nearest" });
  own.at = at;
  tell(own, at);
}

function tell(own, i) {
  const bar = document.getElementById("told") ?? element("output", { id: "told" });
  bar.textContent = describe(flows.get(own), i);
  document.body.append(bar);
}

function along(event) {
  const card = event.target.closest?.(".response");
  const own = card?.querySelector(".tokens:has(.here)") ?? card?.querySelector(".tokens");
  const now = own?.at ?? -1;
  const to = { ArrowRight: now + 1, ArrowLeft: now - 1, Home: 0, End: Infinity }[event.key];
  if (!own || to === undefined) return false;
  stand(own, to);
  return true;
}

function nextResponse(by) {
  const all = [...document.querySelectorAll(".response")];
  const now = all.indexOf(document.activeElement.closest(".response"));
  const next = all[Math.max(0, Math.min(all.length - 1, now + by))];
  next?.focus();
  next?.scrollIntoView({ block: "nearest" });
}

function press(key) {
  const at = place.now();
  const button = (title) => document.querySelector(`button[title$="(${title})"]:enabled`)?.click();
  const acts = {
    1: () => place.go({ view: "curves" }),
    2: () => place.go({ view: "responses" }),
    "[": () => button("["),
    "]": () => button("]"),
    p: () => button("p"),
    n: () => button("n"),
    j: () => nextResponse(1),
    k: () => nextResponse(-1),
    "/": () => document.getElementById("search")?.focus(),
    c: () => place.go({ color: at.color === "c" ? null : "c" }),
    t: turnTheme,
    "?": showKeys,
  };
  acts[key]?.();
  return key in acts;
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (event.target.matches?.("input, select, textarea") || document.querySelector("dialog[open]")) {
    if (event.key === "Escape") event.target.blur?.();
    return;
  }
  if (along(event) || press(event.key)) event.preventDefault();
});

for (const kind of ["pointerover", "click"]) {
  addEventListener(kind, (event) => {
    const own = event.target.parentNode;
    if (!flows.has(own)) return;
    const i = [...own.children].indexOf(event.target);
    if (kind === "click") stand(own, i);
    else tell(own, i);
  });
}
