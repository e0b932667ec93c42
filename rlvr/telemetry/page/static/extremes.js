"use strict";
// The tokens that stand out.

const context = (tokens, i) => tokens.slice(Math.max(i - 8, 0), i).join("");

// The tokens with the largest values so far, in descending order, each in its context once.
class Most {
  constructor(count) {
    this.count = count;
    this.found = [];
    this.least = 0;
  }

  see(value, token) {
    if (value <= this.least) return;
    const { tokens } = token.response;
    const key = `${context(tokens, token.i)}|${tokens[token.i]}`;
    const old = this.found.findIndex((own) => own.key === key);
    if (old >= 0 && this.found[old].size >= value) return;
    if (old >= 0) this.found.splice(old, 1);
    const at = this.found.findIndex((own) => own.size < value);
    this.found.splice(at < 0 ? this.found.length : at, 0, { ...token, key, size: value });
    if (this.found.length > this.count) this.found.pop();
    if (this.found.length === this.count) this.least = this.found.at(-1).size;
  }
}

// The tokens of these groups with the largest and the smallest weights, by method.
function extremes(groups, mode, count) {
  const found = new Map();
  for (const group of groups) {
    for (const response of group.responses) {
      for (const variant of response.variants) {
        if (!variant.advantage || !variant.known) continue;
        if (!found.has(variant.label)) {
          found.set(variant.label, {
            label: variant.label,
            equal: true,
            raised: new Most(count),
            lowered: new Most(count),
          });
        }
        const own = found.get(variant.label);
        own.equal &&= variant.equal && variant.c(0) === 1;
        for (let i = 0; i < response.tokens.length; i++) {
          const value = weight(variant, i, mode);
          if (value > 0) own.raised.see(value, { group, response, i, value });
          else if (value < 0) own.lowered.see(-value, { group, response, i, value });
        }
      }
    }
  }
  return [...found.values()];
}

// The most raised and the most lowered tokens of what is selected, as links to them.
function extremesPanel(groups, mode) {
  const list = (title, found, method) => {
    const item = ({ group, response, i, value }) => {
      const go = () =>
        place.go({ group: `${group.step}.${group.place}.${response.sample}`, token: i, method });
      return element(
        "li",
        {},
        element(
          "button",
          { type: "button", className: "link context", onclick: go },
          element("span", { className: "figure" }, figure(value)),
          " ",
          visible(context(response.tokens, i)),
          element(
            "mark",
            { className: tint(value, Math.abs(value)) },
            visible(response.tokens[i]) || "·",
          ),
        ),
      );
    };
    return element("div", {}, element("h4", {}, title), element("ol", {}, found.map(item)));
  };
  const methods = extremes(groups, mode, 10).map(({ label, equal, raised, lowered }) =>
    element(
      "div",
      { className: "method" },
      element("h3", {}, label),
      equal
        ? element("p", {}, "All coefficients are 1: no token stands out.")
        : element(
            "div",
            { className: "columns" },
            list("Most raised", raised.found, label),
            list("Most lowered", lowered.found, label),
          ),
    ),
  );
  if (!methods.length) return null;
  const summary = element("summary", {}, "The tokens most raised and lowered");
  const own = element("details", { className: "extremes", open: innerWidth > 900 }, summary);
  own.append(element("div", { className: "methods" }, methods));
  return own;
}
