// One row as the viewer shows it: its facts, what became of it and why, its chain, alone or beside its rivals.
// Everything here takes data and returns elements; viewer.js puts them into the page.

const VERDICTS = { correct: "✓ right", wrong: "✗ wrong", unsure: "? unsure", unfinished: "… unfinished",
  unchecked: "– unchecked" };

const number = (value, digits = 3) =>
  value == null ? "" : Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(digits);
const faint = (...text) => h("span.faint", ...text);
const note = (text) => h("p.note", text);
const verdict = (value) => h("span", { class: `verdict ${value}` }, VERDICTS[value] ?? "not graded");

// A feature has one colour in the score and in the text; other parts of a score have their own
function colour(name, names) {
  if (FEATURES.includes(name)) return name;
  return `p${names.filter((other) => !FEATURES.includes(other)).indexOf(name) % 4}`;
}

function head(row, meanings) {
  const facts = Object.entries(row.facts).map(([name, value]) =>
    h("span.chip", { title: meanings?.[name] ?? "" }, `${name} ${value}`),
  );
  return [h("h3", { id: "title", tabindex: "-1" }, row.name?.includes(": ") ? `${row.id} (${row.run})` : row.id), h("p.chips", verdict(row.verdict), ...facts)];
}

function problem(text, raw) {
  const place = h("div.problem.text");
  if (raw) place.append(h("pre.source", text));
  else write(place, pieces(text), null);
  return place;
}

function reference(answer, raw) {
  const place = h("span");
  const bare = /[\\^_]/.test(answer) && !answer.includes("$"); // LaTeX without its dollars, as most references are
  if (raw) place.append(answer);
  else write(place, bare ? [{ kind: "math", tex: answer, text: answer }] : pieces(answer), null);
  return h("p.reference", faint("Reference answer "), place);
}

// What became of a row, beside the other rows of its problem. `fold` says whether it is closed.
function why(row, all, fold) {
  const story = h("p.story", tell(row, all));
  if (!row.rivals.length && !row.parts.length) return story;
  const names = Object.keys(all.weights);
  const swatch = (name) => h("i", { class: `part ${colour(name, names)}` });
  const key = row.parts.length ? names.flatMap((name) => [swatch(name), ` ${name} × ${all.weights[name]}   `]) : [];
  const scored = [row, ...row.rivals].some((chain) => chain.score != null);
  const heads = ["", "chain", ...(scored ? [all.by[0], row.parts.length ? "of which" : ""] : []), "characters", "outcome"];
  const chains = [row, ...row.rivals].map((chain) => competitor(chain, names, scored));
  const meaning = scored && all.meanings?.[all.by[0]];
  const table = h("table", h("thead", h("tr", ...heads.map((text) => h("th", text)))), h("tbody", ...chains));
  return h(
    "details.why",
    { open: !fold },
    h("summary", row.state === "chosen" ? "Why this chain" : "All of this problem"),
    story,
    key.length ? h("p.key.faint", ...key) : null,
    meaning ? h("p.faint", `${all.by[0]}: ${meaning}.`) : null,
    h("div.scroll", { tabindex: "0" }, table),
    row.more ? h("p.faint", `${row.more} more of this problem are in dropped.jsonl.`) : null,
  );
}

function competitor(chain, names, scored) {
  const outcome = chain.why ?? (chain.state === "answer" ? chain.benchmark : h("b", chain.state));
  return h(
    chain.state === "chosen" ? "tr.chosen" : "tr",
    h("td", verdict(chain.verdict)),
    h("td", chain.name),
    ...(scored ? [h("td.number", number(chain.score)), h("td.stack", chain.parts.length ? stack(chain.parts, names) : null)] : []),
    h("td.number", number(chain.characters)),
    h("td", outcome, chain.detail ? faint(` (${chain.detail})`) : null),
  );
}

// What each feature adds to a score, from [value, scaled] in the order of the weights; the share is the size of the
// weight times the scaled value, or what it lacks to 1 under a negative weight
function scoreParts(measured, weights) {
  return Object.entries(weights).flatMap(([name, weight], at) => {
    if (!measured?.[at]) return [];
    const [value, scaled] = measured[at];
    return [{ name, value, scaled, share: Math.abs(weight) * (weight >= 0 ? scaled : 1 - scaled) }];
  });
}

// A score as a bar of its parts
function stack(parts, names) {
  const pieces = parts.map((part) => {
    const share = `scaled ${number(part.scaled)}, ${number(part.share)} of the score`;
    const title = `${part.name} ${number(part.value)}: ${share}`;
    const piece = h("i", { class: `part ${colour(part.name, names)}`, title });
    piece.style.width = `${100 * part.share}%`;
    return piece;
  });
  return h("span.parts", ...pieces);
}

// The same in words
function tell(row, all) {
  if (row.state === "answer") return `${row.name} on ${row.benchmark}. ${listOf(row.flip).filter(Boolean).join("; ")}`;
  if (row.state === "unreadable") return `A line that is not one of ours. ${row.why}`;
  if (row.state !== "chosen") return row.why ? `Dropped by ${row.why}. ${row.detail ?? ""}` : "Left by the last finished stage.";
  const score = row.score == null ? "" : ` with ${all.by[0]} ${number(row.score)}`;
  const place = `Chosen${score}.`;
  if (!row.rivals.length) return `${place} No other chain of this problem was made.`;
  if (row.score == null) return place;
  const next = row.rivals.find((rival) => rival.score != null && rival.run === row.run);
  return next ? `${place} The next of its problem, ${next.name}, has ${number(next.score)}.` : place;
}

// How often each feature was marked
function legend(counts) {
  const marks = FEATURES.map((name) => h("span", h("mark", { class: name }, name), ` ${counts[name]}`));
  return h("p.legend", { "aria-label": "words that the score counts" }, ...marks);
}

// A row and its rivals in columns
function sides(row, rivals, words, raw) {
  const column = (of) => {
    const about = faint(`${of.why ?? of.state}, ${number(of.characters)} characters`);
    const title = h("p.sticky", verdict(of.verdict), h("b", ` ${of.name ?? of.id} `), about);
    const body = of.text == null ? note("not in the page") : chain(of.text, words, raw).list;
    return h("div.side", { tabindex: "0" }, title, body);
  };
  return h("div.sides", ...[row, ...rivals].map(column));
}
