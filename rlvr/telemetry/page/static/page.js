"use strict";
// From the address to what is shown; and a page of runs that go on renews itself.

const remember = (key, value) => {
  try {
    sessionStorage.setItem(key, value);
  } catch {} // a browser may refuse to
};
const remembered = (key) => {
  try {
    return sessionStorage.getItem(key);
  } catch {
    return null;
  }
};

let drawn = 0; // how often something was; only the last one counts

async function show(content) {
  const mine = ++drawn;
  const main = document.getElementById("main");
  const at = place.now();
  const curvesToo = content.families.length > 0;
  const view = at.view ?? (curvesToo ? "curves" : "responses");
  const tab = ([name, told]) => {
    const go = () => place.go({ view: name });
    const own = element("button", { type: "button", onclick: go }, told);
    own.setAttribute("aria-current", String(view === name));
    return own;
  };
  const views = [
    ["curves", "Curves"],
    ["responses", "Responses"],
  ];
  document.getElementById("views").replaceChildren(...(curvesToo ? views.map(tab) : []));
  document.getElementById("told")?.remove();
  const progress = (words) => {
    if (mine === drawn) main.replaceChildren(element("p", {}, `Unpacking ${words} …`));
  };
  try {
    const made = view === "responses" ? await responsesView(content, progress) : runsView(content);
    if (mine !== drawn) return;
    const focused = document.activeElement?.id;
    main.replaceChildren(made);
    if (focused) document.getElementById(focused)?.focus();
    if (view === "responses" && at.group) reveal(at);
  } catch (error) {
    if (mine !== drawn) return;
    main.replaceChildren(element("p", { className: "error" }, `This cannot be shown: ${error}`));
    throw error;
  }
}

function reveal({ group, token, method }) {
  const card = document.querySelector(`[data-place="${CSS.escape(group)}"]`);
  if (!card) return;
  card.focus({ preventScroll: true });
  card.scrollIntoView({ block: "center" });
  const all = [...card.querySelectorAll(".tokens")];
  stand(all.find((own) => flows.get(own).variant.label === method) ?? all[0], Number(token ?? 0));
}

// Reload when the reader is not in the middle of something, and come back to the same place.
function renew(seconds) {
  const busy = () =>
    document.hidden ||
    document.activeElement?.matches("input, select") ||
    !getSelection().isCollapsed ||
    document.querySelector("dialog[open]");
  setTimeout(() => {
    if (busy()) return renew(1);
    remember("scroll", scrollY);
    location.reload();
  }, seconds * 1000);
}

async function start() {
  setTheme(remembered("theme") ?? "");
  document.getElementById("theme").addEventListener("click", turnTheme);
  document.getElementById("help").addEventListener("click", showKeys);
  const content = await unpack("content");
  const short = shortNames(content.runs.map((run) => run.name));
  content.runs.forEach((run, number) => (run.short = short[number]));
  const live = content.refresh ? "live, " : "";
  document.getElementById("made").textContent = `${live}${content.made}`;
  addEventListener("hashchange", () => show(content));
  await show(content);
  const scroll = remembered("scroll");
  if (scroll !== null && !place.now().group) scrollTo(0, Number(scroll));
  remember("scroll", 0);
  document.documentElement.dataset.ready = "true";
  if (content.refresh) renew(content.refresh);
}

start();
