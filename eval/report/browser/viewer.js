// A list of rows with filters, of which only the visible ones are in the page, and one row at a time. The report has
// its rows packed in itself; `limo view` serves them, or has them in files beside the page.

const HIGH = 76; // pixels of a row of the list, as in viewer.css
const BLOCKS = 12; // that stay unpacked
const BARS = 24; // of the histogram
const RIVALS = 40; // other rows of a problem that are listed
const POLL = 3000; // milliseconds between looks at runs that may go on
const $ = (id) => document.getElementById(id);
const MOVES = { j: 1, ArrowDown: 1, k: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
const PRESSES = { x: "mark", s: "raw", c: "sides" };
// A field of a row, and its label
const SORTS = { place: "listed order", score: "score", length: "length", rate: "pass rate", samples: "samples",
  source: "source", id: "id" };
const FACETS = { run: "all runs", state: "chosen, dropped, answers", why: "all reasons", source: "all sources",
  teacher: "all teachers", verdict: "all verdicts", model: "all models", benchmark: "all benchmarks", flip: "all flips" };
const MEASURES = ["score", "rate", "length"]; // that the histogram shows, the one sorted by before the first
const SERVED = document.documentElement.dataset.rows; // "server", "files", or undefined in a report

// JSON as eval/report/viewer.py packs it: gzipped, in base64
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).json();
}

// The token in the page's address, without which the server answers nothing
const TOKEN = new URLSearchParams(location.search).get("token");

async function read(name) {
  const answer = await fetch(name, TOKEN ? { headers: { Authorization: `token ${TOKEN}` } } : {});
  if (!answer.ok) throw new Error(`${name}: ${await answer.text()}`);
  return answer;
}

// Opened rows: from the page, from files beside it, or from the server
class Store {
  constructor() {
    this.kept = new Map();
  }

  async details(row) {
    if (SERVED === "server") return this.once(row.key, async () => (await read(`row/${row.key}`)).json());
    const [block, place] = row.block;
    const text = async () => (SERVED ? (await read(`blocks/${block}`)).text() : $("block" + block).textContent);
    return (await this.once(block, async () => unpack(await text())))[place];
  }

  once(key, make) {
    if (!this.kept.has(key)) {
      this.kept.set(key, make());
      if (this.kept.size > (SERVED === "server" ? 4 * RIVALS : BLOCKS)) this.kept.delete(this.kept.keys().next().value);
    }
    return this.kept.get(key);
  }
}

async function readIndex() {
  if (SERVED === "server") return (await read("index")).json();
  return unpack(SERVED ? await (await read("index")).text() : $("index").textContent);
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

const listOf = (value) => (Array.isArray(value) ? value : [value ?? ""]);
const finite = (value) => typeof value === "number" && Number.isFinite(value);

class Viewer {
  constructor(data) {
    this.state = { raw: false, sides: false };
    this.marks = new Set(JSON.parse(stored() ?? "[]"));
    this.current = null;
    this.inChain = new Set();
    this.range = null; // of the measure that the histogram shows: [lowest, highest]
    this.facets = { state: "chosen" };
    this.take(data);
    this.controls();
    this.keys();
    this.sort();
    const asked = decodeURIComponent(location.hash.replace(/^#chain=/, ""));
    const first = this.rows.find((row) => row.id === asked);
    if (first && !this.shown.includes(first)) this.choose({ state: first.state });
    if (first || innerWidth > 760) this.open(first ?? this.shown[0], { asked: Boolean(first) });
  }

  // Rows, weights and terms as they are now
  take(data) {
    Object.assign(this, data);
    this.store = new Store();
    this.words = wordFinder(this.terms);
    this.groups = new Map();
    this.rows.forEach((row, number) => {
      const find = [row.id, row.question, row.source, row.teacher].join("\n").toLowerCase();
      const group = row.problem ?? number; // also of other runs
      const length = this.unit === "tokens" ? row.tokens : row.characters;
      Object.assign(row, { number, place: number, find, group, length, rate: row.rate ?? null, score: row.score ?? null });
      if (!this.groups.has(group)) this.groups.set(group, []);
      this.groups.get(group).push(row);
    });
    this.several = new Set(this.rows.map((row) => row.run)).size > 1;
    if (this.several) // names say of which run
      for (const row of this.rows) if (row.state !== "answer") row.name = `${row.run}: ${row.name ?? row.id}`;
    for (const row of this.rows) row.samples = this.groups.get(row.group).length + (row.more ?? 0);
    if (!this.rows.some((row) => row.state === this.facets.state)) this.facets.state = "";
  }

  // The other rows of a row's problem: right ones first, then by score
  rivals(row) {
    const sign = this.by[1] ? -1 : 1;
    const rank = (other) => [other.verdict !== "correct", other.score == null, sign * (other.score ?? 0)];
    const before = (a, b) => rank(a).reduce((order, value, at) => order || value - rank(b)[at], 0);
    return this.groups.get(row.group).filter((other) => other !== row).sort(before).slice(0, RIVALS);
  }

  controls() {
    for (const name of Object.keys(FACETS)) {
      const place = h("select", { id: name, "aria-label": FACETS[name] });
      place.addEventListener("change", () => this.choose({ [name]: place.value }));
      $("facets").append(place);
    }
    $("search").addEventListener("input", () => this.search());
    $("sort").addEventListener("change", () => ((this.range = null), this.sort()));
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
    $("histogram").addEventListener("click", (event) => this.pick(event.target.closest("button"), event.shiftKey));
  }

  // The list: what is asked for, in the order asked for
  async search() {
    this.inChain = new Set();
    this.filter();
    const wanted = $("search").value.trim().toLowerCase();
    const asked = (this.asked = {});
    if (wanted.length < 3) return;
    await new Promise((done) => setTimeout(done, 200));
    if (this.asked !== asked) return;
    if (SERVED === "server") {
      const keys = new Set(await (await read(`search?q=${encodeURIComponent(wanted)}`)).json());
      if (this.asked === asked) this.inChain = new Set(this.rows.filter((row) => keys.has(row.key)));
    } else await this.searchBlocks(wanted, asked);
    if (this.asked === asked) this.filter();
  }

  async searchBlocks(wanted, asked) {
    let filtered = performance.now();
    for (const row of this.rows) {
      if (this.asked !== asked) return;
      if (!((await this.store.details(row)).text ?? "").toLowerCase().includes(wanted)) continue;
      this.inChain.add(row);
      if (performance.now() - filtered > 150) (this.filter(), (filtered = performance.now()));
    }
  }

  choose(facets) {
    Object.assign(this.facets, facets);
    this.range = null;
    this.filter();
  }

  // Whether a row is shown; `without` names a facet, or "range", that does not count
  fits(row, words, without) {
    const measure = this.measure;
    return (
      Object.entries(this.facets).every(([name, value]) => !value || name === without || listOf(row[name]).includes(value)) &&
      (!this.range || without === "range" || (row[measure] >= this.range[0] && row[measure] <= this.range[1])) &&
      (this.inChain.has(row) || words.every((word) => row.find.includes(word)))
    );
  }

  filter() {
    const words = $("search").value.trim().toLowerCase().split(/\s+/).filter(Boolean);
    const sorted = $("sort").value;
    this.measure = [sorted, ...MEASURES].find((name) => MEASURES.includes(name) && this.rows.some((r) => finite(r[name])));
    this.shown = this.ordered.filter((row) => this.fits(row, words));
    for (const name of Object.keys(FACETS)) this.offer(name, words);
    this.bars(words);
    const every = this.facets.state ? this.rows.filter((row) => row.state === this.facets.state).length : this.rows.length;
    const some = this.shown.length === every ? "" : `${number(this.shown.length)} of `;
    const kind = { chosen: "chain", answer: "answer" }[this.facets.state] ?? "row";
    $("count").textContent = `${some}${number(every)} ${kind}${every === 1 ? "" : "s"}`;
    this.list.scrollTop = 0;
    this.draw();
    if (!this.current) return;
    if (this.shown.length && !this.shown.includes(this.current) && innerWidth > 760) this.open(this.shown[0]);
    else this.tools(this.current, null);
  }

  // The values of a facet among the rows that all other filters leave, each with its count
  offer(name, words) {
    const counts = new Map();
    for (const row of this.rows)
      if (this.fits(row, words, name))
        for (const value of listOf(row[name])) counts.set(value, (counts.get(value) ?? 0) + 1);
    if (this.facets[name] && !counts.has(this.facets[name])) counts.set(this.facets[name], 0);
    const values = [...counts].filter(([value]) => value !== "").sort((a, b) => b[1] - a[1]).slice(0, 200);
    const label = name === "verdict" ? (value) => VERDICTS[value] ?? value : (value) => value;
    const options = values.map(([value, count]) => h("option", { value }, `${label(value)} (${number(count)})`));
    $(name).replaceChildren(h("option", { value: "" }, FACETS[name]), ...options);
    $(name).value = this.facets[name] ?? "";
    $(name).hidden = !this.facets[name] && (values.length === 0 || (values.length === 1 && counts.size === 1));
  }

  // How the shown rows are spread over a number; a bar is a filter, a second one with Shift makes a range
  bars(words) {
    const rows = this.rows.filter((row) => finite(row[this.measure]) && this.fits(row, words, "range"));
    const values = rows.map((row) => row[this.measure]);
    const [low, high] = values.reduce(([l, u], v) => [Math.min(l, v), Math.max(u, v)], [Infinity, -Infinity]);
    $("histogram").hidden = !(low < high);
    if (!(low < high)) return;
    const label = this.measure === "score" ? this.by[0] : SORTS[this.measure];
    const counts = new Array(BARS).fill(0);
    for (const value of values) counts[Math.min(BARS - 1, Math.floor(((value - low) / (high - low)) * BARS))]++;
    const most = Math.max(...counts);
    const edge = (at) => (at === BARS ? high : low + (at * (high - low)) / BARS);
    const bars = counts.map((count, at) => {
      const title = `${label} ${number(edge(at))} to ${number(edge(at + 1))}: ${number(count)}`;
      const on = Boolean(this.range) && edge(at) < this.range[1] && edge(at + 1) > this.range[0];
      const bar = h("button", { type: "button", title, "aria-label": title, "aria-pressed": String(on) }, h("i"));
      bar.firstChild.style.height = `${count ? Math.max(6, (100 * count) / most) : 0}%`;
      bar.span = [edge(at), edge(at + 1)];
      return bar;
    });
    const name = h("span.faint", `${label} ${number(low)} to ${number(high)}`);
    $("histogram").replaceChildren(h("div.bars", ...bars), name);
  }

  pick(bar, wider) {
    if (!bar) return;
    const [low, high] = bar.span;
    const same = this.range && this.range[0] === low && this.range[1] === high;
    if (wider && this.range) this.range = [Math.min(low, this.range[0]), Math.max(high, this.range[1])];
    else this.range = same ? null : bar.span;
    this.filter();
  }

  sort() {
    for (const [name, label] of Object.entries(SORTS)) {
      const known = [...$("sort").options].some((option) => option.value === name);
      if (!known && new Set(this.rows.map((row) => row[name])).size > 1)
        $("sort").append(h("option", { value: name }, name === "score" ? this.by[0] : label));
    }
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
    this.list.replaceChildren(this.shown.length ? room : h("p.faint.none", "No row has that."));
    const at = this.shown.indexOf(this.current);
    if (at >= from && at < to) this.list.setAttribute("aria-activedescendant", `row${at}`);
    else this.list.removeAttribute("aria-activedescendant");
  }

  item(row, at) {
    const bar = h("i.bar");
    bar.style.setProperty("--share", `${100 * Math.min(Math.max(row.score ?? 0, 0), 1)}%`);
    bar.hidden = this.by[0] !== "score"; // other numbers are not between 0 and 1
    const place = { "data-at": String(at), "aria-posinset": String(at + 1), "aria-setsize": String(this.shown.length) };
    const marked = this.marks.has(row.id) ? h("em", " · marked") : null;
    const hit = this.inChain.has(row) ? h("em", " · in the chain") : null;
    const item = h(
      "div.item",
      { role: "option", id: `row${at}`, "aria-selected": String(row === this.current), ...place },
      this.title(row),
      h("span.faint.meta", `${this.several ? `${row.run}: ` : ""}${row.id} · ${this.measured(row)}`, this.fate(row), marked, hit),
      row.score == null ? null : h("span.score", number(row.score), bar),
    );
    item.style.top = `${at * HIGH}px`;
    return item;
  }

  measured(row) {
    return row.length == null ? `${number(row.characters)} characters` : `${number(row.length)} ${this.unit}`;
  }

  // What became of a row, where the list holds rows of several kinds
  fate(row) {
    if (row.state === "chosen") return null;
    const words = row.state === "answer" ? `${row.name} on ${row.benchmark}, ${VERDICTS[row.verdict] ?? ""}` : row.why;
    return h("span.fate", ` · ${words ?? row.state}`);
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
    const rivals = this.rivals(row);
    const wanted = [row, ...(this.state.sides ? rivals : [])].map((other) => this.store.details(other));
    const [opened, ...others] = await Promise.all(wanted);
    if (this.current !== row) return;
    const whole = (other, details) => ({ facts: {}, ...other, ...details, parts: scoreParts(other.parts, this.weights) });
    const shown = whole(row, opened);
    shown.rivals = rivals.map((rival, at) => whole(rival, others[at]));
    const { raw } = this.state;
    const place = $("row");
    const scroll = fresh ? 0 : place.scrollTop;
    const reasons = why(shown, this, this.whyFolded);
    reasons.addEventListener("toggle", () => (this.whyFolded = !reasons.open));
    const beside = this.state.sides ? shown.rivals : [];
    const body = beside.length ? [sides(shown, beside, this.words, raw)] : this.one(shown);
    const question = shown.question ?? "";
    const answer = shown.answer == null ? [] : [reference(shown.answer, raw)];
    place.replaceChildren(...head(shown, this.meanings), problem(question, raw), ...answer, reasons, ...body);
    place.scrollTop = scroll;
    this.tools(row, rivals.length);
    document.documentElement.dataset.shown = row.id;
  }

  one(row) {
    if (row.text == null) return [note("This chain is in the run's folder; with it this page would be too large.")];
    const { list, counts } = chain(row.text, this.words, this.state.raw);
    const plain = this.state.raw || row.state === "answer" || !Object.keys(this.weights).length;
    return plain ? [list] : [legend(counts), list];
  }

  tools(row, others) {
    $("position").textContent = `${this.shown.indexOf(row) + 1} of ${this.shown.length}`;
    for (const name of ["raw", "sides"]) $(name).setAttribute("aria-pressed", String(this.state[name]));
    $("mark").setAttribute("aria-pressed", String(this.marks.has(row.id)));
    $("save").hidden = !this.marks.size;
    $("save").textContent = `Save ${number(this.marks.size)} marked`;
    if (others === null) return;
    $("sides").disabled = !others;
    $("sides").textContent = "Side by side" + (others ? ` (${others + 1})` : "");
  }

  // What is pressed
  pressed(does) {
    if (!does) return;
    if (does === "previous" || does === "next") this.move(does === "next" ? 1 : -1);
    else if (does === "back") this.back();
    else if (does === "mark") this.mark();
    else if (does === "save") this.save();
    else this.toggle(does);
  }

  // A marked chain is one that curate.exclude is to drop
  mark() {
    if (!this.current) return;
    if (!this.marks.delete(this.current.id)) this.marks.add(this.current.id);
    stored(JSON.stringify([...this.marks]));
    this.tools(this.current, null);
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

// Several runs beside each other, and what is not listed
function showRuns(data) {
  if (!SERVED) return;
  const names = [...new Set(data.runs.flatMap((run) => run.facts.map(([what]) => what)))];
  const cells = (run) => names.map((name) => h("td", run.facts.find(([what]) => what === name)?.[1] ?? ""));
  const lines = data.runs.map((run) => h("tr", h("td", h("b", run.name)), ...cells(run)));
  const heads = ["run", ...names].map((name) => h("th", name));
  const table = h("div.scroll", { tabindex: "0" }, h("table", h("thead", h("tr", ...heads)), h("tbody", ...lines)));
  const several = data.runs.length > 1;
  const said = data.runs.flatMap((run) => run.said.map((text, at) => h(at ? "p" : "p.big", several ? `${run.name}: ${text}` : text)));
  $("runs").replaceChildren(...said, table);
  $("notes").replaceChildren(...data.notes.map(note));
}

// Look again as long as the page is open: a run that goes on has more rows each time
async function follow(viewer, state) {
  let now = state;
  while (now === state) {
    await new Promise((done) => setTimeout(done, POLL));
    try {
      now = await (await read("state")).text();
      $("live").textContent = "";
    } catch {
      $("live").textContent = "limo view has ended";
    }
  }
  const [data, open] = [await readIndex(), viewer.current];
  const at = viewer.list.scrollTop;
  viewer.take(data);
  showRuns(data);
  viewer.sort();
  viewer.list.scrollTop = at;
  viewer.current = viewer.rows.find((row) => open && row.id === open.id && row.state === open.state) ?? viewer.current;
  viewer.draw();
  follow(viewer, now);
}

(async () => {
  if (typeof DecompressionStream === "undefined") {
    $("row").textContent = "This browser is too old to unpack the chains: it needs DecompressionStream (2023).";
    return;
  }
  const state = SERVED === "server" ? await (await read("state")).text() : null;
  const data = await readIndex();
  showRuns(data);
  window.viewer = new Viewer(data);
  document.documentElement.dataset.ready = "yes";
  if (state !== null) follow(window.viewer, state);
})();
