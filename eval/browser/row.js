// One chosen row as the viewer shows it: what is known of it, why it was chosen, its chain, alone or beside its rivals.
// Everything here takes data and returns elements; viewer.js puts them into the page.

const VERDICTS = { correct: "✓ right", wrong: "✗ wrong", unsure: "? unsure", unfinished: "… unfinished" };
const TICKS = 3000; // marked words of a chain that the strip shows
const LEAST = 0.0005; // of a score; less is not worth a word

const number = (value, digits = 3) =>
  value == null ? "" : Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(digits);
const faint = (...text) => element("span", { class: "faint" }, ...text);
const note = (text) => element("p", { class: "note" }, text);
const verdict = (value) => element("span", { class: `verdict ${value}` }, VERDICTS[value] ?? "not graded");

// A feature has one colour in the score and in the text; other parts of a score have their own
function colour(name, names) {
  if (FEATURES.includes(name)) return name;
  return `p${names.filter((other) => !FEATURES.includes(other)).indexOf(name) % 4}`;
}

function head(row) {
  const facts = Object.entries(row.facts).map(([name, value]) =>
    element("span", { class: "chip" }, `${name} ${value}`),
  );
  const title = element("h3", { id: "title", tabindex: "-1" }, row.id);
  return [title, element("p", { class: "chips" }, verdict(row.verdict), ...facts)];
}

function problem(text, raw) {
  const place = element("div", { class: "problem text" });
  if (raw) place.append(element("pre", { class: "source" }, text));
  else write(place, pieces(text), null);
  return place;
}

function reference(answer, raw) {
  const place = element("span");
  const bare = /[\\^_]/.test(answer) && !answer.includes("$"); // LaTeX without its dollars, as most references are
  if (raw) place.append(answer);
  else write(place, bare ? [{ kind: "math", tex: answer, text: answer }] : pieces(answer), null);
  return element("p", { class: "reference" }, faint("Reference answer "), place);
}

// Why a row was chosen over the other chains of its problem. `all` is {rows, weights}, `fold` whether it is closed.
function why(row, all, fold) {
  const story = element("p", { class: "why-said" }, said(row, all.rows));
  if (!row.rivals.length && !row.parts.length) return story;
  const names = Object.keys(all.weights);
  const legend = names.flatMap((name) => [
    element("i", { class: `part ${colour(name, names)}` }),
    ` ${name} × ${all.weights[name]}   `,
  ]);
  const chains = [{ ...row, chosen: true }, ...row.rivals];
  const heads = ["", "chain", "score", "of which", "characters", "what became of it"];
  const table = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, ...heads.map((text) => element("th", {}, text)))),
    element("tbody", {}, ...chains.map((chain) => competitor(chain, names))),
  );
  return element(
    "details",
    { class: "why", open: !fold },
    element("summary", {}, "Why this chain"),
    story,
    names.length ? element("p", { class: "key faint" }, ...legend) : null,
    element("div", { class: "scroll", tabindex: "0" }, table),
    row.more ? element("p", { class: "faint" }, `${row.more} more of this problem are in dropped.jsonl.`) : null,
  );
}

function competitor(chain, names) {
  const fate = chain.chosen ? element("b", {}, "chosen") : `${chain.stage}: ${chain.reason}`;
  return element(
    "tr",
    { class: chain.chosen ? "chosen" : "" },
    element("td", {}, verdict(chain.verdict)),
    element("td", {}, chain.name),
    element("td", { class: "number" }, number(chain.score)),
    element("td", { class: "stack" }, chain.parts.length ? stack(chain.parts, names) : null),
    element("td", { class: "number" }, number(chain.characters)),
    element("td", {}, fate, chain.detail ? faint(` (${chain.detail})`) : null),
  );
}

// A score as a bar of its parts
function stack(parts, names) {
  const bar = element("span", { class: "parts" });
  for (const part of parts) {
    const said = `scaled ${number(part.scaled)}, ${number(part.share)} of the score`;
    const title = `${part.name} ${number(part.value)}: ${said}`;
    const piece = element("i", { class: `part ${colour(part.name, names)}`, title });
    piece.style.width = `${100 * part.share}%`;
    bar.append(piece);
  }
  return bar;
}

// The same in words
function said(row, rows) {
  const last = rows.at(-1).score;
  const score = row.score == null ? "" : ` with a score of ${number(row.score)}; the last one has ${number(last)}`;
  const place = `Number ${row.place + 1} of ${rows.length} chosen${score}.`;
  if (!row.rivals.length) return `${place} No other chain of this problem was made.`;
  const scored = row.rivals.filter((rival) => rival.score != null);
  if (!scored.length || row.score == null)
    return `${place} Of its problem's ${row.rivals.length + row.more} other chains none came as far as the score.`;
  const best = scored[0];
  const lead = row.score - best.score;
  const against = `${Math.abs(lead).toFixed(3)} ${lead >= 0 ? "ahead of" : "behind"} ${best.name}`;
  const by = differences(row.parts, best.parts).join(", ");
  return `${place} It is ${against}, the next best of its problem${by ? `: ${by}` : ""}.`;
}

// By which features one score is ahead of another, the largest gain first
function differences(parts, others) {
  return parts
    .map((part) => [part.name, part.share - (others.find((other) => other.name === part.name)?.share ?? 0)])
    .filter(([, by]) => Math.abs(by) > LEAST)
    .sort((a, b) => b[1] - a[1])
    .map(([name, by]) => `${name} ${by > 0 ? "+" : "−"}${Math.abs(by).toFixed(3)}`);
}

// How often each feature was marked, a button to hide it, and where in the chain it was
function legend(marked, hidden) {
  const buttons = element("div", { class: "buttons" });
  const strips = element("div", { class: "strips", "aria-hidden": "true" });
  FEATURES.forEach((feature, index) => {
    const here = marked.filter(([name]) => name === feature);
    const pressed = String(!hidden.has(feature));
    const attributes = { type: "button", class: feature, "data-does": feature, title: `key ${index + 1}` };
    const name = element("mark", { class: feature }, feature);
    buttons.append(element("button", { ...attributes, "aria-pressed": pressed }, name, ` ${here.length}`));
    strips.append(element("span", { class: "strip" }, ...here.slice(0, TICKS).map(tick)));
  });
  const group = { class: "legend", role: "group", "aria-label": "words that the score counts" };
  return element("div", group, buttons, strips);
}

function tick([feature, share, body]) {
  const mark = element("i", { class: feature });
  mark.style.insetInlineStart = `${100 * share}%`;
  mark.addEventListener("click", () => body.scrollIntoView({ block: "center" }));
  return mark;
}

// The chosen chain and its rivals in columns; `others` are [rival, text]
function sides(row, text, others, words, state) {
  const column = (name, of, fate, shown) =>
    element(
      "div",
      { class: "side", tabindex: "0" },
      element(
        "p",
        { class: "sticky" },
        verdict(of.verdict),
        element("b", {}, ` ${name} `),
        faint(`${fate}, ${number(of.characters)} characters`),
      ),
      shown == null ? note("not in the page") : chain(shown, words, state).list,
    );
  return element(
    "div",
    { class: "sides" },
    column(row.name, row, "chosen", text),
    ...others.map(([rival, shown]) => column(rival.name, rival, rival.reason, shown)),
  );
}
