"use strict";
// The last minutes of the server, drawn by hand: a point every other second.

const POINTS_MAX = 300;
const WIDTH = 330;
const HEIGHT = 96;
let points = [];
let last = 0;

const rate = x => (x >= 100 ? grouped(Math.round(x)) : x >= 1 ? x.toFixed(1) : x === 0 ? "0" : x.toFixed(2));
const bytes = x => {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (x >= 1024 && unit < 3) {
    x /= 1024;
    unit += 1;
  }
  return `${x >= 10 || x === 0 ? Math.round(x) : x.toFixed(1)} ${units[unit]}`;
};
const time = s => (s >= 1 ? `${s.toFixed(2)} s` : s >= 0.001 ? `${(s * 1e3).toFixed(s >= 0.01 ? 0 : 1)} ms` : `${Math.round(s * 1e6)} µs`);

/** What each card draws: series by name, each a function of a point. */
const CARDS = [
  {title: "Requests a second", say: rate, series: () => [["answered", point => point.requests]]},
  {title: "Rows a second", say: rate, series: () => [["sampled", point => point.rows]]},
  {title: "Latency", say: time, series: () => [["half of the requests", 0], ["90%", 1], ["99%", 2]].map(([name, i]) => [name, point => point.latency?.[i] ?? null])},
  {title: "Bytes of logits a second", say: bytes, series: () => names("bytes").map(name => [name, point => point.bytes[name] ?? 0]), none: "none since the server started"},
  {title: "Rows that wait", say: x => grouped(Math.round(x)), series: () => [["in the queue", point => point.queue]]},
  {title: "Refused or failed a second", say: rate, series: () => names("refused").map(name => [name, point => point.refused[name] ?? 0]), none: "none since the server started"},
];

function names(field) {
  return [...new Set(points.flatMap(point => Object.keys(point[field])))].sort();
}

function svg(name, attributes, text) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** A number at least as large that is easy to read. */
function ceiling(x) {
  if (x <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(x));
  return [1, 2, 5, 10].map(n => n * power).find(n => n >= x * 0.999);
}

function draw(card, element) {
  const series = card.series();
  const shown = points.slice(-POINTS_MAX);
  const values = series.map(([, of]) => shown.map(of));
  const most = Math.max(0, ...values.flat().filter(x => x !== null));
  const top = ceiling(most);
  const x = i => WIDTH * (POINTS_MAX - shown.length + i) / (POINTS_MAX - 1);
  const y = value => HEIGHT * (1 - value / top);
  const now = values.map(list => list.findLast(value => value !== null) ?? null);
  const said = series.map(([name], i) => `${name}: ${now[i] === null ? "nothing yet" : card.say(now[i])}`).join(", ");
  const picture = svg("svg", {viewBox: `0 -8 ${WIDTH} ${HEIGHT + 28}`, role: "img", "aria-label": `${card.title}, now ${said || card.none}`});
  for (const share of [0, 0.5, 1]) {
    picture.append(svg("line", {class: "grid", x1: 0, x2: WIDTH, y1: y(top * share), y2: y(top * share)}));
    if (share > 0 && most > 0) picture.append(svg("text", {x: 2, y: y(top * share) + 12}, card.say(top * share)));
  }
  for (const [minutes, anchor] of [[10, "start"], [5, "middle"], [0, "end"]]) {
    picture.append(svg("text", {x: WIDTH * (1 - minutes / 10), y: HEIGHT + 16, "text-anchor": anchor}, minutes ? `${minutes} min ago` : "now"));
  }
  values.forEach((list, i) => {
    // Where nothing is known the line ends, and begins anew.
    const runs = [[]];
    list.forEach((value, at) => (value === null ? runs.push([]) : runs.at(-1).push(`${x(at).toFixed(1)},${y(value).toFixed(1)}`)));
    for (const run of runs.filter(run => run.length)) {
      const path = run.length === 1 ? `M${run[0]}h1` : `M${run.join("L")}`;
      if (series.length === 1 && run.length > 1) {
        const [begin, end] = [run[0], run.at(-1)].map(at => at.split(",")[0]);
        picture.append(svg("path", {class: `area c${i % 6}`, d: `${path}L${end},${HEIGHT}L${begin},${HEIGHT}Z`}));
      }
      picture.append(svg("path", {class: `line c${i % 6}`, d: path}));
    }
  });
  const legend = make("p", {class: "legend"}, ...(series.length > 1 || card.none ? series : []).map(([name], i) => make("span", {}, make("i", {class: `c${i % 6}`}), `${name} ${now[i] === null ? "" : card.say(now[i])}`)));
  const main = series.length === 1 && now[0] !== null ? card.say(now[0]) : series.length ? "" : card.none ?? "";
  element.replaceChildren(make("h2", {text: card.title}), make("p", {class: series.length ? "now" : "about", text: main}), legend, picture);
}

function devices(list) {
  const head = make("tr", {}, ...["device", "state", "rows since the start", "what", "code", "threads"].map(text => make("th", {scope: "col", text})));
  const rows = list.map(one => make("tr", {},
    make("th", {scope: "row", text: one.id}), make("td", {class: one.up ? "good" : "bad", text: one.up ? "up" : "taken out"}), make("td", {text: grouped(one.rows)}),
    make("td", {text: one.name}), make("td", {text: one.isa}), make("td", {text: one.threads || ""})));
  $("devices").replaceChildren(make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows)));
}

function age(seconds) {
  const [minutes, hours] = [Math.floor(seconds / 60), Math.floor(seconds / 3600)];
  return hours >= 48 ? `${Math.floor(hours / 24)} days` : hours ? `${hours} h ${minutes % 60} min` : minutes ? `${minutes} min` : `${seconds} s`;
}

async function reports() {
  const list = await askJson("/api/studies");
  $("studies").hidden = !list.length;
  const open = async (event, name) => {
    if (!sessionStorage.getItem("token")) return;
    // A link sends no token: the page fetches the report, and hands it over as a file.
    event.preventDefault();
    const page = await (await ask(`/studies/${name}`)).blob();
    const link = make("a", {href: URL.createObjectURL(page), download: name});
    link.click();
    URL.revokeObjectURL(link.href);
  };
  const rows = list.map(one => make("tr", {},
    make("th", {scope: "row"}, make("a", {href: `/studies/${one.name}`, text: one.name, click: event => open(event, one.name)})),
    make("td", {text: new Date(one.written * 1000).toLocaleString()}), make("td", {text: bytes(one.bytes)})));
  $("reports").replaceChildren(make("table", {}, make("tbody", {}, ...rows)));
}

async function follow() {
  const cards = CARDS.map(() => make("section", {class: "card"}));
  $("cards").append(...cards);
  for (;;) {
    const told = await askJson(`/api/live?since=${last}`);
    // A server that has started anew counts from the beginning.
    if (told.last < last) points = [];
    if (told.last < last) last = 0;
    else {
      points = [...points, ...told.points].slice(-POINTS_MAX);
      last = told.last;
      $("about").textContent = `Up for ${age(told.uptime_s)}; a point every ${told.interval_ms / 1000} seconds. Everything here is in /metrics, for Prometheus.`;
      if (!document.hidden) {
        CARDS.forEach((card, i) => draw(card, cards[i]));
        devices(told.devices);
      }
      document.body.dataset.points = points.length;
    }
    await new Promise(resolve => setTimeout(resolve, document.hidden ? 10000 : told.interval_ms));
  }
}

addEventListener("back", reports);
reports();
follow();
