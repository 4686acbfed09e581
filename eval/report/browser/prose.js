// Chain text as a page shows it: formulas rendered, the score's words marked, split into steps. Text enters the page
// through textContent only. A formula that KaTeX cannot read is shown as its source.

const LONGEST = 4000; // characters of a formula; a longer one is an unclosed dollar
const MANY = 80; // steps from which those out of sight are not laid out
const FEATURES = ["verification", "exploration", "connectives"];
const PAIRS = [["```", "```"], ["[asy]", "[/asy]"], ["\\[", "\\]", true], ["\\(", "\\)", false], ["$$", "$$", true]];
const ENVIRONMENT =
  /\\begin\{(align|alignat|aligned|array|cases|equation|gather|gathered|multline|split|[bpvV]?matrix)(\*?)\}/y;
const KNOWN_AS = { multline: "gather", eqnarray: "align", tabular: "array" };
const MACROS = { "\\mbox": "\\text{#1}", "\\overarc": "\\overset{\\frown}{#1}", "\\indent": "\\quad" };

// An element such as h("p.note", {title: "x"}, "text"): tag and classes, attributes or properties, children
function h(kind, ...rest) {
  const [tag, ...classes] = kind.split(".");
  const made = document.createElement(tag);
  if (classes.length) made.className = classes.join(" ");
  const plain = rest[0] !== null && typeof rest[0] === "object" && !(rest[0] instanceof Node);
  for (const [name, value] of Object.entries(plain ? rest.shift() : {})) {
    if (value === false || value == null) continue;
    if (name in made && typeof value !== "string") made[name] = value;
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...rest.filter((child) => child != null));
  return made;
}

// Pieces of a text in their order: {kind: "text" | "math" | "code", text, tex, display}. One pass; where a closing mark
// is missing once it is never looked for again, so that a chain of nothing but opening ones takes no longer.
function pieces(text) {
  const found = [];
  const ahead = new Map();
  let [plain, at] = [0, 0];
  const closing = (mark, from) => {
    const known = ahead.get(mark);
    if (known !== undefined && (known === -1 || known >= from)) return known;
    const next = text.indexOf(mark, from);
    ahead.set(mark, next);
    return next;
  };
  const take = (piece, end) => {
    if (at > plain) found.push({ kind: "text", text: text.slice(plain, at) });
    found.push({ ...piece, text: text.slice(at, end) });
    plain = at = end;
  };
  const opening = /[\\$`[]/g;
  for (let match; (opening.lastIndex = at), (match = opening.exec(text)); ) {
    at = match.index;
    const piece = pieceAt(text, at, closing);
    if (piece) take(piece, piece.end);
    else at += text.startsWith("\\$", at) ? 2 : 1;
  }
  if (plain < text.length) found.push({ kind: "text", text: text.slice(plain) });
  return found;
}

function pieceAt(text, at, closing) {
  for (const [open, close, display] of PAIRS) {
    if (!text.startsWith(open, at)) continue;
    const from = at + open.length;
    const end = closing(close, from);
    if (end >= 0 && display === undefined) return { kind: "code", end: end + close.length };
    if (end > from && end - at <= LONGEST)
      return { kind: "math", display, tex: text.slice(from, end), end: end + close.length };
  }
  if (text[at] === "$") return dollars(text, at);
  if (text.startsWith("\\boxed{", at)) return boxed(text, at);
  ENVIRONMENT.lastIndex = at;
  const environment = ENVIRONMENT.exec(text);
  if (!environment) return null;
  const close = `\\end{${environment[1]}${environment[2]}}`;
  const end = closing(close, at);
  if (end < 0 || end - at > LONGEST) return null;
  return { kind: "math", display: true, tex: text.slice(at, end + close.length), end: end + close.length };
}

// A formula between single dollars, or null for an amount of money. What has a command, an index or a power in it is a
// formula; of the rest none begins or ends with a space, ends with an operator, has a number or a calculator's <<...>>
// behind it, and an amount with words behind it is a sentence that names two.
function dollars(text, at) {
  let end = at;
  do end = text.indexOf("$", end + 1);
  while (end > 0 && text[end - 1] === "\\");
  const tex = end > at + 1 && end - at < LONGEST ? text.slice(at + 1, end) : "";
  if (!tex || /\n\s*\n/.test(tex) || !tex.trim()) return null;
  const sure = /\\[a-zA-Z$,]|[\^_]/.test(tex);
  const money =
    /^\s|\s$|\d\s*[-+*/=×÷(]$|\d\s+x$|^[\d.,]+\s+[a-z]{2,}|^[,;.)]\s|^<</i.test(tex) ||
    /^(\d|\.\d|<<)/.test(text.slice(end + 1, end + 3));
  if (!sure && money) return null;
  return { kind: "math", display: false, tex, end: end + 1 };
}

function boxed(text, at) {
  let depth = 0;
  for (let i = at + 6; i < text.length && i - at < LONGEST; i++) {
    if (text[i] === "\\") i++;
    else if (text[i] === "{") depth++;
    else if (text[i] === "}" && --depth === 0)
      return { kind: "math", display: false, tex: text.slice(at, i + 1), end: i + 1 };
  }
  return null;
}

function formula(piece) {
  const place = h(piece.display ? "div.formula" : "span.formula");
  const tex = piece.tex
    .replace(/\{(multline|eqnarray|tabular)(\*?)\}(\[[bct]\])?/g, (all, name, star) => `{${KNOWN_AS[name]}${star}}`)
    .replace(/\\vspace\*?\{[^{}]*\}|@\{[^{}]*(?:\{[^{}]*\})?\}/g, "")
    .replace(/\\renewcommand\{\\arraystretch\}\{[^{}]*\}/g, "");
  if (typeof katex !== "undefined")
    for (const displayMode of piece.display ? [true] : [false, true])
      try {
        const options = { output: "mathml", strict: "ignore", maxExpand: 300, maxSize: 20, macros: { ...MACROS } };
        const shown = h("span");
        katex.render(tex, shown, { displayMode, ...options });
        place.append(shown);
        return place;
      } catch (error) {
        place.title = "shown as its source: " + String(error.message ?? error).slice(0, 200);
      }
  place.classList.add("unread");
  place.textContent = piece.text;
  return place;
}

// The score's words as one regular expression, and which feature each belongs to
function wordFinder(terms) {
  const feature = new Map();
  for (const name of FEATURES) for (const term of terms[name] ?? []) if (!feature.has(term)) feature.set(term, name);
  const escape = (term) => term.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
  const han = /[\u3400-\u9fff]/;
  const longest = [...feature.keys()].filter((t) => t).sort((a, b) => b.length - a.length);
  const [whole, signs] = [false, true].map((is) => longest.filter((t) => han.test(t) === is).map(escape).join("|"));
  const both = [whole && `(?<!\\p{L})(?:${whole})(?!\\p{L})`, signs].filter(Boolean).join("|") || "(?!)";
  return { pattern: both, feature: (word) => feature.get(word.toLowerCase()) };
}

// Steps of a text, between empty lines: the pieces of each
function steps(text) {
  const found = [[]];
  for (const piece of pieces(text)) {
    if (piece.kind !== "text") found.at(-1).push(piece);
    else
      piece.text.split(/\n[^\S\n]*(?:\n[^\S\n]*)+/).forEach((part, index) => {
        if (index) found.push([]);
        if (part) found.at(-1).push({ kind: "text", text: part });
      });
  }
  return found.filter((step) => step.length);
}

// Writes pieces into a place and calls `count` with the feature of each marked word
function write(place, parts, words, count = () => {}) {
  const stars = parts.reduce((sum, p) => sum + (p.kind === "text" ? p.text.split("**").length - 1 : 0), 0);
  let bold = false;
  const put = (node) => place.append(bold ? h("b", node) : node);
  const pattern = new RegExp(
    `(?<stars>\\*\\*)|(?<code>\`[^\`\\n]+\`)|(?<head>(?<=^|\\n)#{1,6} [^\\n]*)|(?<dollar>\\\\[$%&#])` +
      (words ? `|(?<word>${words.pattern})` : ""),
    "giu",
  );
  for (const piece of parts) {
    if (piece.kind === "math") put(formula(piece));
    if (piece.kind === "code") place.append(h("pre", piece.text));
    if (piece.kind !== "text") continue;
    let from = 0;
    for (const match of piece.text.matchAll(pattern)) {
      if (match.index > from) put(document.createTextNode(piece.text.slice(from, match.index)));
      from = match.index + match[0].length;
      const { stars: star, code, head, dollar, word } = match.groups;
      const feature = word && words.feature(word);
      if (star && stars % 2 === 0) bold = !bold;
      else if (code) put(h("code", code.slice(1, -1)));
      else if (head) put(h("b.head", head.replace(/^#+ /, "")));
      else if (word) (put(h("mark", { class: feature }, word)), count(feature));
      else put(document.createTextNode(dollar ? dollar.slice(1) : match[0]));
    }
    if (from < piece.text.length) put(document.createTextNode(piece.text.slice(from)));
  }
}

// A chain as an ordered list of steps, and how often each feature was marked
function chain(text, words, raw = false) {
  const list = h("ol.steps");
  const counts = Object.fromEntries(FEATURES.map((feature) => [feature, 0]));
  if (raw) list.append(h("li", h("div.text", h("pre.source", text))));
  for (const step of raw ? [] : steps(text)) {
    const body = h("div.text");
    write(body, step, words, (feature) => counts[feature]++);
    list.append(h("li", body));
  }
  list.classList.toggle("many", list.children.length > MANY);
  return { list, counts };
}

// Outside the viewer: what is folded away is rendered when it is opened
function renderProse(place) {
  for (const prose of place.querySelectorAll("[data-prose]")) {
    const text = prose.textContent;
    prose.removeAttribute("data-prose");
    prose.replaceChildren();
    write(prose, pieces(text), null);
  }
}
document.addEventListener("toggle", (event) => event.target.open && renderProse(event.target), true);
for (const open of document.querySelectorAll("details[open]")) renderProse(open);
