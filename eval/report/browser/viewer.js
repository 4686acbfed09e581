// The chain viewer: a list of the chosen rows, of which only the visible ones are in the page, and one row at a time.

const HIGH = 76; // pixels of a row of the list, as in viewer.css
const BLOCKS = 12; // that stay unpacked
const $ = (id) => document.getElementById(id);
const MOVES = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
const PRESSES = { x: "mark", s: "raw", c: "sides", u: "unfolded", 1: FEATURES[0], 2: FEATURES[1], 3: FEATURES[2] };
const SORTS = { place: "order of choice", score: "score", length: "length", rate: "pass rate", samples: "samples",
  source: "source", id: "id" }; // a field of a row, and its label

// JSON as eval/report/viewer.py packs it: gzipped, in base64
function unpack(id) {
  const bytes = Uint8Array.from(atob($(id).textContent), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// Marks of a person, which outlive the page where the browser lets them
const PLACE = "marks " + location.pathname;
function stored(value) {
  try {
    return value === undefined ? localStorage.getItem(PLACE) : localStorage.setItem(PLACE, value);
  } catch {
    return null;
  }
}

class Viewer {
  constructor(data) {
    Object.assign(this, data); // rows, weights, terms, unit
    this.blocks = new Map();
    this.words = wordFinder(this.terms);
    this.hidden = new Set();
    this.state = { raw: false, sides: false, unfolded: false };
    this.rows.forEach((row, place) => {
      const find = [row.id, row.question, row.answer, row.source, row.teacher].join("\n").toLowerCase();
      Object.assign(row, { place, find, samples: row.rivals.length + 1 });
    });
    this.marks = new Set(JSON.parse(stored() ?? "[]"));
    this.current = null;
    this.inChain = new Set();
    this.controls();
    this.keys();
    this.sort();
    const asked = decodeURIComponent(location.hash.replace(/^#chain=/, ""));
    const first = this.rows.find((row) => row.id === asked);
    if (first || innerWidth > 760) this.open(first ?? this.shown[0], { asked: Boolean(first) });
  }

  // The text at [block, place]
  async text([block, place]) {
    if (!this.blocks.has(block)) {
      this.blocks.set(block, unpack("block" + block));
      if (this.blocks.size > BLOCKS) this.blocks.delete(this.blocks.keys().next().value);
    }
    return (await this.blocks.get(block))[place];
  }

  controls() {
    for (const [name, label] of Object.entries(SORTS)) {
      const values = new Set(this.rows.map((row) => row[name]));
      if (values.size > 1) $("sort").append(h("option", { value: name }, label));
    }
    const sources = [...new Set(this.rows.map((row) => row.source))].sort();
    for (const source of sources) $("source").append(h("option", { value: source }, source || "(none)"));
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
    let filtered = performance.now();
    for (const row of this.rows) {
      if (this.asked !== asked) return;
      if (!row.text || !(await this.text(row.text)).toLowerCase().includes(wanted)) continue;
      this.inChain.add(row);
      if (performance.now() - filtered > 150) (this.filter(), (filtered = performance.now()));
    }
    if (this.asked === asked) this.filter();
  }

  filter() {
    const wanted = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const source = $("source").value;
    this.shown = this.ordered.filter(
      (row) =>
        (!source || row.source === source) &&
        (this.inChain.has(row) || wanted.every((word) => row.find.includes(word))),
    );
    const every = this.rows.length;
    const some = this.shown.length === every ? "" : `${number(this.shown.length)} of `;
    $("count").textContent = `${some}${number(every)} ${every === 1 ? "chain" : "chains"}`;
    this.list.scrollTop = 0;
    this.draw();
  }

  sort() {
    const name = $("sort").value || "place";
    const sign = $("direction").getAttribute("aria-pressed") === "true" ? -1 : 1;
    const order = (a, b) => {
      const [x, y] = [a[name], b[name]];
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
    const room = h("div.room", { role: "presentation" }, ...items);
    room.style.height = `${this.shown.length * HIGH}px`;
    this.list.replaceChildren(this.shown.length ? room : h("p.faint.none", "No chain has that."));
    const at = this.shown.indexOf(this.current);
    if (at >= from && at < to) this.list.setAttribute("aria-activedescendant", `row${at}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  item(row, at) {
    const bar = h("i.bar");
    bar.style.setProperty("--share", `${100 * Math.min(Math.max(row.score ?? 0, 0), 1)}%`);
    const place = { "data-at": String(at), "aria-posinset": String(at + 1), "aria-setsize": String(this.shown.length) };
    const marked = this.marks.has(row.id) ? h("em", " · marked") : null;
    const hit = this.inChain.has(row) ? h("em", " · in the chain") : null;
    const item = h(
      "div.item",
      { role: "option", id: `row${at}`, "aria-selected": String(row === this.current), ...place },
      this.title(row),
      h("span.faint.meta", `${row.id} · ${number(row.length)} ${this.unit}`, marked, hit),
      row.score == null ? null : h("span.score", number(row.score), bar),
    );
    item.style.top = `${at * HIGH}px`;
    return item;
  }

  // The problem's beginning with its formulas rendered, made once
  title(row) {
    if (row.title) return row.title;
    row.title = h("span.title");
    write(row.title, pieces(row.question || "(no text)").map((piece) => ({ ...piece, display: false })), null);
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
    const others = row.rivals.filter((rival) => rival.text);
    const beside = this.state.sides ? others : [];
    const wanted = [row.problem, row.text, ...beside.map((rival) => rival.text)];
    const [question, text, ...texts] = await Promise.all(wanted.map((place) => place && this.text(place)));
    if (this.current !== row) return;
    const { raw } = this.state;
    const place = $("row");
    const scroll = fresh ? 0 : place.scrollTop;
    const reasons = why(row, this, this.whyFolded);
    reasons.addEventListener("toggle", () => (this.whyFolded = !reasons.open));
    const pairs = beside.map((rival, i) => [rival, texts[i]]);
    const body = beside.length ? [sides(row, text, pairs, this.words, this.state)] : this.one(text);
    place.replaceChildren(...head(row), problem(question ?? "", raw), reference(row.answer, raw), reasons, ...body);
    place.scrollTop = scroll;
    this.tools(row, others.length);
    document.documentElement.dataset.shown = row.id;
  }

  one(text) {
    if (text == null) return [note("This chain is in curated.jsonl; with it this page would be too large.")];
    const { list, marked } = chain(text, this.words, this.state);
    return this.state.raw ? [list] : [legend(marked, this.hidden), list];
  }

  tools(row, others) {
    $("position").textContent = `${this.shown.indexOf(row) + 1} of ${this.shown.length}`;
    for (const name of ["raw", "sides", "unfolded"]) $(name).setAttribute("aria-pressed", String(this.state[name]));
    $("mark").setAttribute("aria-pressed", String(this.marks.has(row.id)));
    $("save").hidden = !this.marks.size;
    $("save").textContent = `Save ${number(this.marks.size)} marked`;
    $("sides").disabled = !others;
    $("sides").textContent = "Side by side" + (others ? ` (${others + 1})` : "");
  }

  // What is pressed
  pressed(does) {
    if (!does) return;
    if (FEATURES.includes(does)) {
      if (!this.hidden.delete(does)) this.hidden.add(does);
      for (const feature of FEATURES) $("row").classList.toggle(`no-${feature}`, this.hidden.has(feature));
      for (const button of $("row").querySelectorAll(`button[data-does=${does}]`))
        button.setAttribute("aria-pressed", String(!this.hidden.has(does)));
    } else if (does === "previous" || does === "next") this.move(does === "next" ? 1 : -1);
    else if (does === "back") this.back();
    else if (does === "mark") this.mark();
    else if (does === "save") this.save();
    else if (does === "unfolded") {
      this.state.unfolded = !this.state.unfolded;
      $("unfolded").setAttribute("aria-pressed", String(this.state.unfolded));
      for (const item of $("row").querySelectorAll(".steps > li")) item.setFolded?.(!this.state.unfolded);
    } else this.toggle(does);
  }

  // A marked chain is one that curate.exclude is to drop
  mark() {
    if (!this.current) return;
    if (!this.marks.delete(this.current.id)) this.marks.add(this.current.id);
    stored(JSON.stringify([...this.marks]));
    this.tools(this.current, this.current.rivals.filter((rival) => rival.text).length);
    this.draw();
  }

  save() {
    const lines = [...this.marks].map((id) => JSON.stringify({ id }) + "\n");
    const link = h("a", { href: URL.createObjectURL(new Blob(lines)), download: "marks.jsonl" });
    link.click();
  }

  async toggle(state) {
    this.state[state] = !this.state[state];
    if (!this.current) return;
    await this.render(this.current, false);
    if (state === "sides") $("row").querySelector(".sides")?.scrollIntoView({ block: "nearest" });
  }

  back() {
    $("viewer").classList.remove("open");
    this.list.focus();
  }

  keys() {
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
      const act = this.action(event.key, event.target);
      if (!act) return;
      event.preventDefault();
      act();
    });
  }

  // What a key does where it was pressed; null leaves it to the browser
  action(key, target) {
    const inside = $("viewer").contains(target);
    if (target === $("search")) {
      if (key === "Escape") return () => this.clear();
      if (key === "Enter") return () => this.enter(this.shown[0]);
      return ["ArrowDown", "ArrowUp"].includes(key) ? () => this.move(MOVES[key]) : null;
    }
    if (target.matches?.("select, summary, textarea, input")) return null;
    if (key === "/") return () => this.find();
    if (key === "Escape") return inside ? () => this.back() : null;
    if (key === "Enter") return target === this.list ? () => this.enter(this.current ?? this.shown[0]) : null;
    const letter = key.length === 1; // arrows and pages scroll what is being read, and the page outside the viewer
    if (key in MOVES) return letter || target === this.list ? () => this.move(MOVES[key]) : null;
    return key in PRESSES && (inside || target === document.body) ? () => this.pressed(PRESSES[key]) : null;
  }

  find() {
    $("viewer").scrollIntoView();
    $("search").focus();
    $("search").select();
  }

  clear() {
    $("search").value = "";
    this.search();
    this.list.focus();
  }

  async enter(row) {
    await this.open(row, { asked: true });
    $("viewer").classList.add("open");
    $("title")?.focus();
  }
}

(async () => {
  if (typeof DecompressionStream === "undefined") {
    $("row").textContent = "This browser is too old to unpack the chains: it needs DecompressionStream (2023).";
    return;
  }
  window.viewer = new Viewer(await unpack("index"));
  document.documentElement.dataset.ready = "yes";
})();
