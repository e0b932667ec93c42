"use strict";
// Which responses are shown.

const PAGE_RESPONSES = 48; // of a page, unless a single group has more
const PAGE_TOKENS = 12000; // as far as they are shown at first
const FIRST_TOKENS = 1200; // of a response that are shown at first

// What is told of credit under `label`: c_t of the i-th token, or null.
function credited(label, credit, advantage) {
  const c = (i) => {
    const fine = typeof credit === "object" && credit !== null ? credit[i] : credit;
    return fine === null || fine === undefined ? null : fine / 1000;
  };
  return { label, advantage, c, known: credit !== null, equal: typeof credit === "number" };
}

function shownResponse(content, response, run, named) {
  const { methods, short } = content.runs[run];
  const label = (k) => (!named ? methods[k] : k ? `${short}: ${methods[k]}` : short);
  return {
    ...response,
    variants: response.credit.map((own, k) => credited(label(k), own, response.advantage)),
  };
}

// The groups of a run's step, with what other runs made of the same prompts: of a response that
// both have sampled another variant of credit, else a response more.
async function compared(content, { run, of }, step, others) {
  const groups = (await groupsOf(run, of, step)).map((group) => ({
    ...group,
    responses: group.responses.map((r) => shownResponse(content, r, run, others.length > 0)),
  }));
  for (const other of others) {
    if (!blocksOf(content, other, of).some(([known]) => known === step)) continue;
    const theirs = new Map((await groupsOf(other, of, step)).map((g) => [g.prompt_id, g]));
    for (const group of groups) {
      for (const response of theirs.get(group.prompt_id)?.responses ?? []) {
        const shown = shownResponse(content, response, other, true);
        const [{ label }] = shown.variants;
        const same = group.responses.find(
          (r) => r.text === shown.text && r.variants.every((v) => v.label !== label),
        );
        if (same) same.variants.push(...shown.variants);
        else group.responses.push({ ...shown, origin: label });
      }
    }
  }
  return groups;
}

function wanted({ outcome, q, sign }) {
  const words = (q ?? "").toLowerCase();
  return (response, group) =>
    (!outcome || response.outcome === outcome) &&
    (!sign || Math.sign(response.advantage ?? 0) === Number(sign)) &&
    (!words ||
      response.text.toLowerCase().includes(words) ||
      group.prompt.toLowerCase().includes(words));
}

// The groups to be shown, with those of their responses that are wanted, and how many there are.
async function selected(content, at, progress) {
  const where = { run: Number(at.run), of: at.of };
  const steps = blocksOf(content, where.run, at.of).map(([step]) => step);
  const chosen = at.step === "all" ? steps : [Number(at.step)];
  const others = (at.with ?? "").split(",").filter(Boolean).map(Number);
  const keep = wanted(at);
  const groups = [];
  let all = 0;
  for (const step of chosen) {
    if (chosen.length > 1) progress(`step ${step} of ${chosen.at(-1)}`);
    for (const group of await compared(content, where, step, others)) {
      all += group.responses.length;
      const responses = group.responses.filter((response) => keep(response, group));
      if (responses.length) groups.push({ ...group, responses });
    }
  }
  return { groups, all };
}

function paged(groups) {
  const pages = [[]];
  let responses = 0;
  let tokens = 0;
  for (const group of groups) {
    const count = group.responses.length;
    const sizes = group.responses.map((r) => Math.min(r.tokens.length, FIRST_TOKENS));
    const size = sizes.reduce((a, b) => a + b, 0);
    const full = responses + count > PAGE_RESPONSES || tokens + size > PAGE_TOKENS;
    if (pages.at(-1).length && full) {
      pages.push([]);
      responses = tokens = 0;
    }
    pages.at(-1).push(group);
    responses += count;
    tokens += size;
  }
  return pages;
}
