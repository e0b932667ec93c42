"use strict";
// What the page holds, and where its reader is.

// The value of a packed part of the page.
async function unpack(id) {
  const letters = atob(document.getElementById(id).textContent);
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return JSON.parse(await new Response(stream).text());
}

const unpacked = new Map(); // the last groups that were asked for, by run and step

// Of a run's training, or of a measure of its evaluations, the steps: [step, shown, all] of each.
const blocksOf = (content, run, of) => content.runs[run].responses[of] ?? [];

// The groups of a run's step. A response has its tokens' texts, and c_t of each by every method:
// a number if all are equal, null if they are unknown.
async function groupsOf(run, of, step) {
  const key = `responses-${run}-${of}-${step}`;
  if (!unpacked.has(key)) {
    const { texts, groups } = await unpack(key);
    for (const group of groups) {
      for (const response of group.responses) {
        response.tokens = response.tokens.map((place) => texts[place]);
        response.text = response.tokens.join("");
      }
      Object.assign(group, { run, step });
    }
    if (unpacked.size > 60) unpacked.delete(unpacked.keys().next().value);
    unpacked.set(key, groups);
  }
  return unpacked.get(key);
}

// Where the reader is stands in the address, so that reloading and going back keep it.
const place = {
  now() {
    return Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
  },
  // Go there; what is "" or null is left out.
  go(changes) {
    const said = Object.entries({ ...place.now(), ...changes });
    const kept = said.filter(([, value]) => value !== "" && value !== null);
    location.hash = new URLSearchParams(kept); // tells of itself by a hashchange
  },
};

// Names without the folders that all have in common.
function shortNames(names) {
  const parts = names.map((name) => name.split("/"));
  let same = 0;
  const shared = () => parts.every((own) => own.length > same + 1 && own[same] === parts[0][same]);
  while (shared()) same++;
  return parts.map((own) => own.slice(same).join("/"));
}

const figure = (x) => {
  if (x === null || x === undefined) return "–";
  if (Number.isInteger(x)) return String(x);
  const size = Math.abs(x);
  return size >= 1e5 || size < 1e-3 ? x.toExponential(2) : String(Number(x.toPrecision(4)));
};
