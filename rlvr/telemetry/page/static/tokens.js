"use strict";
// A response's tokens, each in the color of what credit makes of it.

const LEVELS = 8;
const flows = new WeakMap(); // of a paragraph of tokens, the response and the variant

// Of the i-th token what its color says: c·A, what it weighs in the update, or c − 1.
function weight(variant, i, mode) {
  const c = variant.c(i);
  if (c === null || variant.advantage === null) return null;
  return mode === "c" ? c - 1 : c * variant.advantage;
}

// By method, the 95th percentile of the size of its weights, which gets the full color.
function scalesOf(groups, mode) {
  const sizes = {};
  for (const group of groups) {
    for (const response of group.responses) {
      for (const variant of response.variants.filter((own) => own.known)) {
        const stride = Math.ceil(response.tokens.length / FIRST_TOKENS);
        for (let i = 0; i < response.tokens.length; i += stride) {
          (sizes[variant.label] ??= []).push(Math.abs(weight(variant, i, mode) ?? 0));
        }
      }
    }
  }
  const full = ([label, own]) => {
    const known = Float64Array.from(own.filter((size) => size > 0)).sort();
    return [label, known.length ? known[Math.floor(known.length * 0.95)] : 1];
  };
  return Object.fromEntries(Object.entries(sizes).map(full));
}

function tint(value, scale) {
  if (value === null) return "";
  const level = Math.min(LEVELS, Math.round((Math.abs(value) / scale) * LEVELS));
  return level ? `${value > 0 ? "raised" : "lowered"}-${level}` : "";
}

// Characters that would move or hide others are written out.
const STRANGE =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const visible = (text) =>
  text
    .replace(STRANGE, (x) => `⟨${x.charCodeAt(0).toString(16).padStart(4, "0")}⟩`)
    .replace(/\n/g, "⏎\n")
    .replace(/\t/g, "⇥\t");

function flow(response, variant, scale, mode) {
  const own = element("p", { className: "tokens" });
  flows.set(own, { response, variant, mode });
  // What an environment said stands before the turn that it was said to, and has no color.
  const observed = new Map(
    response.turns.map(([end, said]) => [end, `▸ ${visible(said)}`]),
  );
  const add = (from, to) => {
    const part = document.createDocumentFragment();
    for (let i = from; i < to; i++) {
      const token = document.createElement("span");
      token.textContent = visible(response.tokens[i]) || "·";
      token.className = tint(weight(variant, i, mode), scale);
      if (observed.has(i)) token.dataset.observed = observed.get(i);
      part.append(token);
    }
    own.append(part);
  };
  own.showTo = (end) => {
    add(own.childElementCount, Math.min(end, response.tokens.length));
    if (more) more.hidden = own.childElementCount >= response.tokens.length;
  };
  const rest = response.tokens.length - FIRST_TOKENS;
  let more = null;
  if (rest > 0) {
    const all = () => own.showTo(response.tokens.length);
    const told = `… ${rest.toLocaleString("en")} ${response.unit}s more`;
    more = element("button", { type: "button", className: "link", onclick: all }, told);
  }
  own.showTo(FIRST_TOKENS);
  const name = element("h4", {}, variant.label);
  const many = response.variants.length > 1;
  return element("div", { className: "variant" }, many ? name : null, own, more);
}

// What there is to know of a token, in a line.
function describe(flowOf, i) {
  const { response, variant } = flowOf;
  const parts = [`${response.unit} ${i + 1} of ${response.tokens.length}`, JSON.stringify(response.tokens[i])];
  for (const own of response.variants.filter(({ known }) => known)) {
    const many = response.variants.length > 1;
    const c = own.c(i);
    const name = many ? `${own === variant ? "▸ " : ""}${own.label}: ` : "";
    const product = c === null || own.advantage === null ? null : c * own.advantage;
    parts.push(`${name}c ${figure(c)}, A ${figure(own.advantage)}, c·A ${figure(product)}`);
  }
  return parts.join("   ");
}
