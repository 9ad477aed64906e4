"use strict";
// The playground. Every number that it shows comes from the server, which samples the row anew for each.

const state = {row: "0", set: new Map(), lists: "", top: 24, copy: "grpc"};
let about = null;
let rows = [];
let last = null;
const shown = new Map(); // by control: how to show a value
const COUNTS = [1, 20, 1000];
const COPIES = [["grpc", "gRPC"], ["python", "Python"], ["command", "Command line"], ["jsonl", "JSONL"]];
const MAIN_WORDS = {
  temperature: "how bold: below 1 the likely win more, above 1 less",
  top_k: "keep the first K tokens",
  top_p: "keep the shortest list of first tokens that has this share of the probability",
  min_p: "keep tokens at least this likely, next to the first",
};

/* The settings, in the address and as a question. */

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  state.set.clear();
  state.row = given.get("row") ?? "0";
  state.lists = given.get("lists") ?? "";
  for (const control of about.controls) {
    if (given.has(control.name)) state.set.set(control.name, given.get(control.name));
  }
  if (!state.set.has("draws")) state.set.set("draws", "20");
  if (!state.set.has("seed")) state.set.set("seed", "7");
}

function address() {
  const said = new URLSearchParams();
  said.set("row", state.row);
  for (const control of about.controls) {
    if (state.set.has(control.name)) said.set(control.name, state.set.get(control.name));
  }
  if (state.lists.trim()) said.set("lists", state.lists.trim());
  return `#${said}`;
}

/** The line that is asked: numbers as they are written, so that nobody rounds them. */
function line() {
  const pairs = [...state.set].map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const lists = state.lists.trim();
  if (!lists) return `{${pairs.join(",")}}`;
  if (!/^\{[^]*\}$/.test(lists)) throw new Error("the lists are no JSON object; write one, such as {\"output\": [563]}");
  const inner = lists.slice(1, -1).trim();
  return `{${[...pairs, ...(inner ? [inner] : [])].join(",")}}`;
}

function put(name, value) {
  const control = about.controls.find(one => one.name === name);
  const text = String(value).trim();
  if (text === "" || text === control.default) state.set.delete(name);
  else state.set.set(name, text);
  if (name === "draws" && !state.set.has(name)) state.set.set(name, "1");
  show(name);
  changed();
}

function show(name) {
  const control = about.controls.find(one => one.name === name);
  shown.get(name)?.(state.set.get(name) ?? control.default ?? "");
}

function showAll() {
  about.controls.forEach(control => show(control.name));
  $("lists").value = state.lists;
  document.querySelectorAll("#rows [role=radio]").forEach(one => {
    const on = one.dataset.row === state.row;
    one.setAttribute("aria-checked", on);
    one.tabIndex = on ? 0 : -1;
  });
  const row = rows.find(one => one.row === state.row);
  $("context").replaceChildren(row ? row.context : `row ${state.row}`, make("span", {class: "caret", "aria-hidden": "true"}));
  $("row-about").textContent = row ? `${grouped(row.vocab_size)} tokens, ${row.dtype}` : "";
}

/* Controls. */

/** The stop that is nearest to a value. */
function nearest(stops, value) {
  const x = Number(value);
  let best = 0;
  stops.forEach((stop, i) => {
    if (Math.abs(Number(stop) - x) < Math.abs(Number(stops[best]) - x)) best = i;
  });
  return best;
}

function control(one) {
  const id = `c-${one.name}`;
  const words = make("p", {class: "about", id: `${id}-about`, text: MAIN_WORDS[one.name] ?? one.about});
  if (one.names.length) {
    const select = make("select", {id, "aria-describedby": `${id}-about`, change: () => put(one.name, select.value)},
      ...one.names.map(name => make("option", {text: name})));
    shown.set(one.name, value => { select.value = value; });
    return make("div", {class: "control"}, make("div", {class: "line"}, make("label", {for: id, text: one.name}), select), words);
  }
  const box = make("input", {
    id, type: "text", inputmode: "decimal", autocomplete: "off", spellcheck: "false", "aria-describedby": `${id}-about`,
    placeholder: one.default ?? "off", title: `allowed: ${one.allowed}`, change: () => put(one.name, box.value),
  });
  const head = make("div", {class: "line"}, make("label", {for: id, text: one.name}), box);
  if (!one.stops.length) {
    shown.set(one.name, value => { box.value = value; });
    return make("div", {class: "control"}, head, words);
  }
  // One that is off unless it is given has a stop for that, before all others.
  const stops = one.default === null ? ["", ...one.stops] : one.stops;
  const slider = make("input", {
    type: "range", min: 0, max: stops.length - 1, step: 1, "aria-label": `${one.name} slider`, id: `${id}-slider`,
    input: () => put(one.name, stops[slider.value]),
  });
  shown.set(one.name, value => {
    box.value = value;
    slider.value = value === "" ? 0 : nearest(stops, value);
    slider.setAttribute("aria-valuetext", value === "" ? "off" : value);
    slider.style.setProperty("--at", `${100 * slider.value / (stops.length - 1)}%`);
    head.classList.toggle("on", value !== (one.default ?? ""));
  });
  const marks = one.name === "temperature" ? make("div", {class: "marks", "aria-hidden": "true"}, make("span", {text: "0 greedy"}), make("span", {text: "1"}), make("span", {text: "2"})) : null;
  return make("div", {class: "control"}, head, slider, marks, words);
}

/** A group of which one is chosen, with arrow keys. */
function radios(group, options, choose) {
  const buttons = options.map(([value, text, more]) => make("button", {
    type: "button", role: "radio", "aria-checked": "false", "data-value": value, ...more, text, click: () => choose(value),
  }));
  group.replaceChildren(...buttons);
  group.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const at = buttons.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    const next = buttons[(at + step + buttons.length) % buttons.length];
    next.focus();
    next.click();
  };
}

function buildRows() {
  radios($("rows"), rows.map(row => [row.row, row.kind === "uploaded" ? row.context : row.kind, {"data-row": row.row, title: row.context.slice(-80)}]), value => {
    state.row = value;
    showAll();
    changed();
  });
}

function build() {
  const groups = {first: $("first"), cuts: $("cuts"), history: $("history"), draws: $("draws")};
  for (const one of about.controls) groups[one.group].append(control(one));
  radios($("counts"), COUNTS.map(count => [String(count), grouped(count)]), value => put("draws", value));
  shown.set("draws", (inner => value => {
    inner?.(value);
    document.querySelectorAll("#counts [role=radio]").forEach((one, i) => {
      const on = one.dataset.value === value;
      one.setAttribute("aria-checked", on);
      one.tabIndex = on || (i === 0 && !COUNTS.includes(Number(value))) ? 0 : -1;
    });
  })(shown.get("draws")));
  radiosAsTabs();
  $("lists").addEventListener("change", () => { state.lists = $("lists").value; changed(); });
  $("reset").addEventListener("click", () => {
    const kept = ["seed", "draws"].filter(name => state.set.has(name)).map(name => [name, state.set.get(name)]);
    state.set = new Map(kept);
    state.lists = "";
    showAll();
    changed();
  });
  $("more").addEventListener("click", () => { state.top = state.top >= 384 ? 24 : state.top * 4; changed(); });
  $("again").addEventListener("click", () => changed({again: true}));
  $("fresh").addEventListener("click", () => put("seed", crypto.getRandomValues(new Uint32Array(1))[0]));
  $("file").addEventListener("change", upload);
  $("copy").addEventListener("click", () => copyText($("snippet").textContent, "copied"));
  $("share").addEventListener("click", () => copyText(location.href, "the link is copied"));
}

function radiosAsTabs() {
  const tabs = COPIES.map(([name, text]) => make("button", {
    type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "snippet", text, click: () => pick(name),
  }));
  const pick = name => {
    state.copy = name;
    tabs.forEach(tab => {
      const on = tab.id === `tab-${name}`;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
    });
    $("snippet").setAttribute("aria-labelledby", `tab-${name}`);
    showCopy();
  };
  $("tabs").replaceChildren(...tabs);
  $("tabs").onkeydown = event => {
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(document.activeElement) + step + tabs.length) % tabs.length];
    next.focus();
    next.click();
  };
  pick(state.copy);
}

async function copyText(text, said) {
  try {
    await navigator.clipboard.writeText(text);
    $("copied").textContent = said;
  } catch {
    $("copied").textContent = "the browser does not let the page copy: mark the text, and copy it by hand";
  }
}

async function upload() {
  const [file] = $("file").files;
  $("upload-error").textContent = "";
  if (!file) return;
  try {
    if (file.size > about.upload_bytes_max) {
      throw new Error(`${file.name} has ${grouped(file.size)} bytes; allowed: ${grouped(about.upload_bytes_max)} (--admin-upload-bytes-max)`);
    }
    const added = await askJson(`/api/upload?dtype=${$("words").value}`, {method: "POST", body: file});
    rows = [...rows.filter(row => row.kind !== "uploaded"), ...added.slice(0, 64)];
    buildRows();
    state.row = added[0].row;
    showAll();
    changed();
  } catch (error) {
    $("upload-error").textContent = error.message;
  }
  $("file").value = "";
}

/* Questions: one at a time, and the last of those that came meanwhile. */

let busy = false;
let wanted = null;

function changed(how = {}) {
  wanted = how;
  history.replaceState(null, "", address());
  if (!busy) look();
}

async function look() {
  busy = true;
  while (wanted) {
    const how = wanted;
    wanted = null;
    document.body.classList.add("asks");
    try {
      const body = line();
      const seen = await askJson(`/api/look?row=${state.row}&top=${state.top}`, {method: "POST", body});
      $("error").textContent = "";
      showSeen(seen, how);
      last = {body, seen};
      if (!wanted) {
        copies = await askJson(`/api/copy?row=${state.row}`, {method: "POST", body});
        showCopy();
      }
    } catch (error) {
      $("error").textContent = error.message;
      // What was there before is of other settings.
      copies = null;
      showCopy();
    }
    document.body.classList.remove("asks");
  }
  busy = false;
  document.body.dataset.seen = Number(document.body.dataset.seen ?? 0) + 1;
}

let copies = null;

function showCopy() {
  $("snippet").textContent = copies?.[state.copy] ?? "";
  $("copied").textContent = "";
}

/* What was seen. */

const visible = (text, token) => text === null ? `#${token}` : text.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replaceAll(" ", "␣");

function tile(value, words) {
  return make("div", {class: "tile"}, make("b", {text: value}), make("span", {text: words}));
}

function bar(name, share) {
  const element = make("i", {class: name});
  element.style.setProperty("--w", `${100 * Math.min(1, share)}%`);
  return element;
}

function sentence(seen) {
  const greedy = Number(state.set.get("temperature") ?? 1) === 0;
  if (greedy) return "Greedy: temperature 0 takes the first token, always.";
  if (seen.kept === seen.vocab_size) return `Nothing is cut: all ${grouped(seen.kept)} tokens can be drawn. Move a control.`;
  const tokens = seen.kept === 1 ? "1 token is left, which has" : `${grouped(seen.kept)} tokens are left, which have`;
  return `${tokens} ${percent(seen.share)} of the probability. The other ${percent(1 - seen.share)} was cut, and is shared out among those that stay.`;
}

function showSeen(seen, how) {
  if (seen.status !== "OK") {
    $("say").textContent = `This row has no token: its status is ${seen.status}.`;
    for (const id of ["ribbon", "tiles", "cut-table", "tokens", "drawn", "in-order", "drawn-say"]) $(id).replaceChildren();
    return;
  }
  $("say").textContent = sentence(seen);
  $("tiles").replaceChildren(
    tile(grouped(seen.kept), seen.kept === 1 ? "token kept" : "tokens kept"),
    tile(percent(seen.share), "of the probability kept"),
    tile(percent(Math.max(0, 1 - seen.share)), "cut"),
    tile(`${seen.entropy.before.toFixed(2)} → ${seen.entropy.after.toFixed(2)}`, "entropy in nats, before and after"),
  );
  showRibbon(seen);
  showCuts(seen);
  const most = Math.max(...seen.tokens.map(one => Math.max(one.before, one.after, one.raw)), 1e-9);
  // A line where each cut falls, after the cuts before it.
  const ends = new Map();
  let left = seen.vocab_size;
  for (const cut of seen.cuts) {
    if (cut.first_tokens && cut.left.kept < left) ends.set(cut.left.kept, [...(ends.get(cut.left.kept) ?? []), cut]);
    left = cut.left.kept;
  }
  const items = seen.tokens.flatMap((one, i) => {
    const cut = ends.get(i + 1);
    const item = make("li", {class: one.after > 0 ? "kept" : "gone", "data-token": one.token},
      make("span", {class: "word", dir: "auto", title: `token ${one.token}`, text: visible(one.text, one.token)}),
      make("span", {class: "track", "aria-hidden": "true"}, bar("before", one.before / most), bar("after", one.after / most), bar("raw", one.raw / most)),
      make("span", {class: "share", text: one.after > 0 ? percent(one.after) : "cut"}),
      make("span", {class: "was", text: percent(one.before)}));
    const fall = cut ? make("li", {class: "fall", text: cut.map(one => `${one.name} ${one.value}`).join(", ") + " cuts here" }) : null;
    return fall ? [item, fall] : [item];
  });
  $("tokens").replaceChildren(...items);
  $("more").textContent = state.top >= 384 ? "Fewer tokens" : "More tokens";
  showDrawn(seen, how);
}

function showRibbon(seen) {
  const parts = seen.tokens.filter(one => one.before > 0.002).map(one => {
    const part = make("span", {class: one.after > 0 ? "kept" : "gone"});
    part.style.setProperty("--w", one.before);
    if (one.before > 0.06) part.textContent = visible(one.text, one.token);
    return part;
  });
  const rest = 1 - seen.tokens.filter(one => one.before > 0.002).reduce((sum, one) => sum + one.before, 0);
  const other = make("span", {class: seen.share > 0.999 ? "kept rest" : "gone rest"});
  other.style.setProperty("--w", Math.max(0, rest));
  $("ribbon").replaceChildren(...parts, other);
  $("ribbon").setAttribute("aria-label", `The whole probability, of which ${percent(seen.share)} is kept`);
}

function showCuts(seen) {
  $("cut-table").hidden = !seen.cuts.length;
  const cell = (text, name = "td") => make(name, {text});
  const body = seen.cuts.map(cut => make("tr", {"data-cut": cut.name}, make("th", {scope: "row", text: `${cut.name} ${cut.value}`}),
    cell(`${grouped(cut.alone.kept)} (${percent(cut.alone.share)})`), cell(`${grouped(cut.left.kept)} (${percent(cut.left.share)})`)));
  const head = make("tr", {}, ...["the cuts, in order", "by itself it keeps", "in its turn it leaves"].map(text => make("th", {scope: "col", text})));
  $("cut-table").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...body)));
}

function showDrawn(seen, how) {
  const {draws} = seen;
  const same = how.again && last && JSON.stringify(last.seen.draws) === JSON.stringify(draws);
  const again = how.again ? (same ? "The same seed again: the same tokens, every one. " : "The draws differ from the last ones. ") : "";
  const distinct = draws.count === 1 ? "" : `${grouped(draws.count)} draws with seed ${seen.seed}, ${grouped(draws.distinct)} different tokens. `;
  $("drawn-say").textContent = again + distinct + (draws.chi?.words ?? (draws.count > 1 ? "Too few draws, or too few tokens, to compare counts with probabilities." : ""));
  const texts = new Map(draws.tokens.map(one => [one.token, one.text]));
  const words = draws.count <= 40 ? draws.in_order.map(token => make("span", {class: "chip", text: visible(texts.get(token) ?? null, token)})) : [];
  $("in-order").replaceChildren(...words);
  const most = Math.max(...draws.tokens.map(one => Math.max(one.count / draws.count, one.probability)), 1e-9);
  $("drawn").replaceChildren(...(draws.count === 1 ? [] : draws.tokens.slice(0, 24)).map(one => make("li", {class: "kept"},
    make("span", {class: "word", dir: "auto", title: `token ${one.token}`, text: visible(one.text, one.token)}),
    make("span", {class: "track", "aria-hidden": "true"}, bar("after", one.count / draws.count / most), bar("exact", one.probability / most)),
    make("span", {class: "share", text: grouped(one.count)}),
    make("span", {class: "was", text: `${(one.probability * draws.count).toFixed(1)} exact`}))));
}

async function start() {
  about = await askJson("/api/about");
  rows = about.rows;
  build();
  buildRows();
  readAddress();
  showAll();
  changed();
  addEventListener("hashchange", () => { readAddress(); showAll(); changed(); });
  addEventListener("back", () => changed());
}

start();
