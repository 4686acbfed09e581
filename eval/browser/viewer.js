// The chain viewer: a list of the chosen rows, of which only the visible ones are in the page, and one row at a time.

const HIGH = 76; // pixels of a row of the list, as in viewer.css
const $ = (id) => document.getElementById(id);
const number = (value, digits = 3) =>
  value == null ? "" : Number.isInteger(value) ? value.toLocaleString("en") : value.toFixed(digits);
// A feature has one colour in the score and in the text
const colour = (name, names) => (FEATURES.includes(name) ? name : `p${names.filter((n) => !FEATURES.includes(n)).indexOf(name) % 4}`);
const VERDICTS = { correct: "✓ right", wrong: "✗ wrong", unsure: "? unsure", unfinished: "… unfinished" };
const SORTS = {
  place: { label: "order of choice", key: (row) => row.place },
  score: { label: "score", key: (row) => row.score },
  length: { label: "length", key: (row) => row.length },
  rate: { label: "pass rate", key: (row) => row.rate },
  samples: { label: "samples", key: (row) => row.rivals.length + 1 },
  source: { label: "source", key: (row) => row.source },
  id: { label: "id", key: (row) => row.id },
};

class Viewer {
  constructor(data) {
    Object.assign(this, data); // rows, weights, terms, total
    this.packed = new Packed();
    this.words = wordFinder(this.terms);
    this.hidden = new Set();
    this.state = { raw: false, sides: false, unfolded: false };
    this.shown = this.rows.map((row, place) => Object.assign(row, { place }));
    for (const row of this.rows) row.find = [row.id, row.question, row.answer, row.source, row.teacher].join("\n").toLowerCase();
    this.current = null;
    this.inChain = new Set();
    this.controls();
    this.keys();
    this.sort();
    const asked = decodeURIComponent(location.hash.replace(/^#chain=/, ""));
    const first = this.rows.find((row) => row.id === asked);
    if (first || innerWidth > 760) this.open(first ?? this.shown[0], { asked: Boolean(first) });
  }

  controls() {
    for (const [name, { label, key }] of Object.entries(SORTS)) {
      const several = new Set(this.rows.map(key)).size > 1;
      if (several && this.rows.some((row) => key(row) != null)) $("sort").append(element("option", { value: name }, label));
    }
    const sources = [...new Set(this.rows.map((row) => row.source))].sort();
    for (const source of sources) $("source").append(element("option", { value: source }, source || "(none)"));
    $("source").hidden = sources.length < 2;
    $("search").addEventListener("input", () => this.search());
    $("sort").addEventListener("change", () => this.sort());
    $("source").addEventListener("change", () => this.filter());
    $("direction").addEventListener("click", () => {
      const down = $("direction").getAttribute("aria-pressed") !== "true";
      $("direction").setAttribute("aria-pressed", String(down));
      $("direction").textContent = down ? "↓" : "↑";
      this.sort();
    });
    this.list = $("list");
    this.list.addEventListener("scroll", () => this.draw(), { passive: true });
    this.list.addEventListener("click", (event) => {
      const item = event.target.closest("[data-at]");
      if (item) this.open(this.shown[Number(item.dataset.at)], { asked: true });
    });
    new ResizeObserver(() => this.draw()).observe(this.list);
    $("viewer").addEventListener("click", (event) => this.pressed(event.target.closest("[data-does]")?.dataset.does));
  }

  // The list: what is asked for, in the order asked for
  async search() {
    this.inChain = new Set();
    this.filter();
    const wanted = $("search").value.trim().toLowerCase();
    const asked = (this.asked = {});
    if (wanted.length < 3) return;
    await new Promise((done) => setTimeout(done, 200));
    let drawn = performance.now();
    for (const row of this.rows) {
      if (this.asked !== asked) return;
      if (!row.text || !(await this.packed.text(row.text)).toLowerCase().includes(wanted)) continue;
      this.inChain.add(row);
      if (performance.now() - drawn > 150) this.filter(), (drawn = performance.now());
    }
    if (this.asked === asked) this.filter();
  }

  filter() {
    const wanted = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const source = $("source").value;
    this.shown = this.ordered.filter(
      (row) => (!source || row.source === source) && (this.inChain.has(row) || wanted.every((word) => row.find.includes(word))),
    );
    const chains = this.shown.length === 1 ? "chain" : "chains";
    $("count").textContent = this.shown.length === this.rows.length ? `${this.rows.length.toLocaleString("en")} ${chains}`
      : `${this.shown.length.toLocaleString("en")} of ${this.rows.length.toLocaleString("en")} chains`;
    this.list.scrollTop = 0;
    this.draw();
  }

  sort() {
    const { key } = SORTS[$("sort").value || "place"];
    const sign = $("direction").getAttribute("aria-pressed") === "true" ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [key(a), key(b)];
      if (x == null || y == null) return (x == null) - (y == null) || a.place - b.place;
      return sign * (typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y) || a.place - b.place;
    };
    this.ordered = [...this.rows].sort(order);
    this.filter();
  }

  draw() {
    const from = Math.max(0, Math.floor(this.list.scrollTop / HIGH) - 4);
    const to = Math.min(this.shown.length, from + Math.ceil(this.list.clientHeight / HIGH) + 9);
    const items = this.shown.slice(from, to).map((row, index) => this.item(row, from + index));
    const room = element("div", { class: "room", role: "presentation" }, ...items);
    room.style.height = `${Math.max(this.shown.length * HIGH, 1)}px`;
    this.list.replaceChildren(room);
    if (!this.shown.length) this.list.replaceChildren(element("p", { class: "faint none" }, "No chain has that."));
    const at = this.shown.indexOf(this.current);
    if (at >= from && at < to) this.list.setAttribute("aria-activedescendant", `row${at}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  item(row, at) {
    const bar = element("i", { class: "bar" });
    bar.style.setProperty("--share", `${100 * Math.min(Math.max(row.score ?? 0, 0), 1)}%`);
    const item = element(
      "div",
      { class: "item", role: "option", id: `row${at}`, "data-at": String(at), "aria-selected": String(row === this.current),
        "aria-posinset": String(at + 1), "aria-setsize": String(this.shown.length) },
      this.title(row),
      element("span", { class: "faint meta" }, [row.id, number(row.length) + ` ${this.unit}`].join(" · "),
        this.inChain.has(row) ? element("em", {}, " · in the chain") : null),
      row.score == null ? null : element("span", { class: "score" }, number(row.score), bar),
    );
    item.style.top = `${at * HIGH}px`;
    return item;
  }

  // The problem's beginning with its formulas drawn, made once
  title(row) {
    if (!row.title) {
      row.title = element("span", { class: "title" });
      write(row.title, pieces(row.question || "(no text)").map((p) => ({ ...p, display: false })), null);
    }
    return row.title;
  }

  move(steps) {
    const at = this.shown.indexOf(this.current);
    const next = at < 0 ? 0 : Math.min(Math.max(at + steps, 0), this.shown.length - 1);
    if (this.shown[next]) this.open(this.shown[next], { asked: true });
  }

  // One row
  async open(row, { asked = false } = {}) {
    if (!row) return;
    this.current = row;
    if (asked) {
      $("viewer").classList.add("open");
      history.replaceState(null, "", `#chain=${encodeURIComponent(row.id)}`);
    }
    const top = this.shown.indexOf(row) * HIGH;
    if (top >= 0 && (top < this.list.scrollTop || top + HIGH > this.list.scrollTop + this.list.clientHeight))
      this.list.scrollTop = top - this.list.clientHeight / 2 + HIGH / 2;
    this.draw();
    await new Promise((done) => requestAnimationFrame(done));
    if (this.current === row) await this.render(row, true);
  }

  async render(row, fresh) {
    const [question, text] = await Promise.all([row.problem, row.text].map((place) => place && this.packed.text(place)));
    const others = row.rivals.filter((rival) => rival.text);
    const sides = this.state.sides && others.length ? await Promise.all(others.map((r) => this.packed.text(r.text))) : null;
    if (this.current !== row) return;
    const problem = element("div", { class: "problem text" });
    if (this.state.raw) problem.append(element("pre", { class: "source" }, question ?? ""));
    else write(problem, pieces(question ?? ""), null);
    const body = sides ? this.sides(row, text, others, sides) : this.one(text);
    const scroll = $("row").scrollTop;
    $("row").replaceChildren(...this.head(row, others), problem, ...this.reference(row), ...this.why(row), ...body);
    $("row").scrollTop = fresh ? 0 : scroll;
    $("position").textContent = `${this.shown.indexOf(row) + 1} of ${this.shown.length}`;
    for (const name of ["raw", "sides", "unfolded"]) $(name).setAttribute("aria-pressed", String(this.state[name]));
    $("sides").disabled = !others.length;
    $("sides").textContent = others.length ? `Side by side (${others.length + 1})` : "Side by side";
    document.documentElement.dataset.shown = row.id;
  }

  head(row) {
    const chip = (text) => element("span", { class: "chip" }, text);
    const facts = Object.entries(row.facts).map(([name, value]) => chip(`${name} ${value}`));
    return [element("h3", { id: "title", tabindex: "-1" }, row.id), element("p", { class: "chips" }, verdict(row.verdict), ...facts)];
  }

  reference(row) {
    const answer = element("span", {});
    if (this.state.raw) answer.append(row.answer);
    else write(answer, /[\\^_]/.test(row.answer) && !row.answer.includes("$") ? [{ kind: "math", tex: row.answer, text: row.answer }] : pieces(row.answer), null);
    return [element("p", { class: "reference" }, element("span", { class: "faint" }, "Reference answer "), answer)];
  }

  one(text) {
    if (text == null) return [element("p", { class: "note" }, "This chain is not in the page, which would be too large with it; it is in curated.jsonl.")];
    const { list, marked } = chain(text, this.words, this.state);
    return [this.state.raw ? null : this.legend(marked), list].filter(Boolean);
  }

  // How often each feature was marked, a button to hide it, and where in the chain it was
  legend(marked) {
    const bar = element("div", { class: "legend", role: "group", "aria-label": "words that the score counts" });
    const [buttons, strips] = [element("div", { class: "buttons" }), element("div", { class: "strips" })];
    FEATURES.forEach((feature, index) => {
      const count = marked.filter(([name]) => name === feature).length;
      const button = element("button", { type: "button", class: feature, "data-does": feature, "aria-pressed": String(!this.hidden.has(feature)), title: `key ${index + 1}` },
        element("mark", { class: feature }, feature), ` ${count}`);
      const strip = element("span", { class: "strip", "aria-hidden": "true" });
      for (const [name, share, body] of marked.slice(0, 3000)) {
        if (name !== feature) continue;
        const tick = element("i", { class: feature });
        tick.style.insetInlineStart = `${100 * share}%`;
        tick.addEventListener("click", () => body.scrollIntoView({ block: "center" }));
        strip.append(tick);
      }
      buttons.append(button);
      strips.append(strip);
    });
    bar.append(buttons, strips);
    for (const feature of FEATURES) $("row").classList.toggle(`no-${feature}`, this.hidden.has(feature));
    return bar;
  }

  sides(row, text, others, texts) {
    const side = (name, mark, note, chainText) => {
      const shown = chainText == null ? element("p", { class: "note" }, "not in the page") : chain(chainText, this.words, this.state).list;
      return element("div", { class: "side", tabindex: "0" }, element("p", { class: "sticky" }, verdict(mark), element("b", {}, ` ${name} `), element("span", { class: "faint" }, note)), shown);
    };
    const lead = `chosen, ${number(row.characters)} characters`;
    return [element("div", { class: "sides" }, side(row.teacher || row.id, row.verdict, lead, text),
      ...others.map((rival, i) => side(rival.name, rival.verdict, `${rival.reason}, ${number(rival.characters)} characters`, texts[i])))];
  }

  // Why it was chosen over its rivals: what each feature adds to the score of each chain of the problem
  why(row) {
    const chains = [{ ...row, name: row.teacher || row.id, reason: "chosen", chosen: true }, ...row.rivals];
    const more = row.more ? [element("p", { class: "faint" }, `${row.more} more of this problem are in dropped.jsonl.`)] : [];
    const said = this.said(row);
    if (!row.rivals.length && !row.parts.length) return [element("p", { class: "why-said" }, said)];
    const names = Object.keys(this.weights);
    const key = element("p", { class: "key faint" }, ...names.flatMap((name) => [element("i", { class: `part ${colour(name, names)}` }), ` ${name} × ${this.weights[name]}   `]));
    const rows = chains.map((c) => element("tr", { class: c.chosen ? "chosen" : "" },
      element("td", {}, verdict(c.verdict)), element("td", {}, c.name), element("td", { class: "number" }, number(c.score)),
      element("td", { class: "stack" }, c.parts?.length ? this.stack(c.parts, names) : null),
      element("td", { class: "number" }, number(c.characters)),
      element("td", {}, c.chosen ? element("b", {}, "chosen") : `${c.stage}: ${c.reason}`, c.detail ? element("span", { class: "faint", title: c.detail }, ` (${c.detail})`) : null)));
    const head = element("tr", {}, ...["", "chain", "score", "of which", "characters", "what became of it"].map((t) => element("th", {}, t)));
    const table = element("div", { class: "scroll", tabindex: "0" }, element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows)));
    const open = element("details", { class: "why", open: this.whyOpen !== false }, element("summary", {}, "Why this chain"), element("p", { class: "why-said" }, said), names.length ? key : null, table, ...more);
    open.addEventListener("toggle", () => (this.whyOpen = open.open));
    return [open];
  }

  stack(parts, names) {
    const bar = element("span", { class: "parts" });
    for (const part of parts) {
      const piece = element("i", { class: `part ${colour(part.name, names)}`, title: `${part.name} ${number(part.value)}: ${number(part.share)} of the score, ahead of ${number(100 * part.scaled, 0)} % of the pool` });
      piece.style.width = `${100 * part.share}%`;
      bar.append(piece);
    }
    return bar;
  }

  said(row) {
    const scored = row.rivals.filter((rival) => rival.score != null);
    const place = `Number ${row.place + 1} of ${this.rows.length} chosen` + (row.score == null ? "." : ` with a score of ${number(row.score)}; the last one has ${number(this.rows.at(-1).score)}.`);
    if (!row.rivals.length) return `${place} No other chain of this problem was made.`;
    const lost = row.rivals.length + row.more - scored.length;
    if (!scored.length) return `${place} The only chain of this problem that came as far as the score; ${lost} left before.`;
    const best = scored[0];
    const lead = row.parts.map((part) => ({ name: part.name, by: part.share - (best.parts.find((p) => p.name === part.name)?.share ?? 0) }));
    const gains = lead.filter((l) => l.by > 0.0005).sort((a, b) => b.by - a.by).map((l) => `${l.name} +${l.by.toFixed(3)}`);
    const losses = lead.filter((l) => l.by < -0.0005).sort((a, b) => a.by - b.by).map((l) => `${l.name} ${l.by.toFixed(3)}`.replace("-", "−"));
    const ahead = row.score - best.score;
    const against = `${Math.abs(ahead).toFixed(3)} ${ahead >= 0 ? "ahead of" : "behind"} ${best.name}, the next best of its problem`;
    return `${place} ${against[0].toUpperCase()}${against.slice(1)}${gains.length || losses.length ? ": " + [...gains, ...losses].join(", ") : ""}.`;
  }

  // What is pressed
  pressed(does) {
    if (!does) return;
    if (FEATURES.includes(does)) {
      if (!this.hidden.delete(does)) this.hidden.add(does);
      for (const feature of FEATURES) $("row").classList.toggle(`no-${feature}`, this.hidden.has(feature));
      for (const button of $("row").querySelectorAll(`button[data-does=${does}]`)) button.setAttribute("aria-pressed", String(!this.hidden.has(does)));
    } else if (does === "previous") this.move(-1);
    else if (does === "next") this.move(1);
    else if (does === "back") this.back();
    else if (does === "unfolded") {
      this.state.unfolded = !this.state.unfolded;
      $("unfolded").setAttribute("aria-pressed", String(this.state.unfolded));
      for (const item of $("row").querySelectorAll(".steps > li")) item.setFolded?.(!this.state.unfolded);
    } else {
      this.state[does] = !this.state[does];
      if (this.current) this.render(this.current, false).then(() => does === "sides" && this.state.sides && $("row").querySelector(".sides")?.scrollIntoView({ block: "nearest" }));
    }
  }

  back() {
    $("viewer").classList.remove("open");
    this.list.focus();
  }

  keys() {
    const moves = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    const presses = { s: "raw", c: "sides", u: "unfolded", 1: FEATURES[0], 2: FEATURES[1], 3: FEATURES[2] };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const inside = $("viewer").contains(event.target);
      const typing = event.target === $("search");
      const other = event.target.matches?.("select, summary, textarea, input:not(#search)");
      const reading = event.target.closest?.("#row, .side") && event.key.length > 1;
      let done = true;
      if (event.key === "/" && !typing && !other) $("viewer").scrollIntoView(), $("search").focus(), $("search").select();
      else if (event.key === "Escape" && typing) ($("search").value = ""), this.search(), this.list.focus();
      else if (event.key === "Escape" && inside) this.back();
      else if (event.key === "Enter" && (typing || event.target === this.list)) this.enter(typing);
      else if (typing && !["ArrowDown", "ArrowUp"].includes(event.key)) done = false;
      else if (event.key in moves && !other && !reading && (inside || event.key.length === 1)) this.move(moves[event.key]);
      else if (event.key in presses && !typing && !other && (inside || document.activeElement === document.body)) this.pressed(presses[event.key]);
      else done = false;
      if (done) event.preventDefault();
    });
  }

  async enter(typing) {
    if (typing || !this.current) await this.open(typing ? this.shown[0] : this.current ?? this.shown[0], { asked: true });
    $("viewer").classList.add("open");
    $("title")?.focus();
  }
}

function verdict(value) {
  return element("span", { class: `verdict ${value}` }, VERDICTS[value] ?? "not graded");
}

(async () => {
  for (const open of document.querySelectorAll("details[open]")) drawn(open);
  if (!$("viewer")) return;
  if (typeof DecompressionStream === "undefined") {
    $("row").textContent = "This browser is too old to unpack the chains: it needs DecompressionStream (2023).";
    return;
  }
  window.viewer = new Viewer(JSON.parse(new TextDecoder().decode(await inflated("index"))));
  document.documentElement.dataset.ready = "yes";
})();
