"use strict";

// Asks for the state every other second and for the last hour every ten, as long as somebody looks.
// What the server says is shown as text, never as markup.

const STATE_MILLIS = 2000;
const TREND_MILLIS = 10000;
const ANSWER_MILLIS_MAX = 8000;
const EVENTS_SHOWN = 6;
const NAME_SHOWN_MAX = 12;

const TONES = {
  optimal: "good", "in-sync": "good", rebuilding: "work", replacing: "work", degraded: "warn",
  failed: "bad", missing: "bad", spare: "idle", former: "idle", warning: "warn", critical: "bad", info: "idle",
};

// ---- elements ----

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props)) {
    if (name === "class") node.setAttribute("class", value);
    else if (name === "width%") node.style.width = `${value}%`;
    else node.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child !== null && child !== undefined) node.append(child);
  }
  return node;
}

function el(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

function svg(tag, props, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), props, children);
}

// Replaces what `node` shows if it is not what is shown already: selections and open parts stay.
function show(node, data, build) {
  const key = JSON.stringify(data);
  if (node.shown === key) return;
  node.shown = key;
  node.replaceChildren(...[build(data)].flat().filter((child) => child !== null));
}

// ---- words for numbers ----

function scaled(number, units, step) {
  let at = 0;
  while (number >= step && at + 1 < units.length) {
    number /= step;
    at += 1;
  }
  const digits = number >= 100 || Number.isInteger(number) ? 0 : 1;
  return `${number.toFixed(digits)} ${units[at]}`;
}

const size = (bytes) => scaled(bytes, ["B", "KiB", "MiB", "GiB", "TiB", "PiB"], 1024);
const speed = (bytes) => `${size(bytes)}/s`;
const rate = (number) => (number >= 1000 ? scaled(number, ["", "k", "M"], 1000) : number.toFixed(number < 10 && number > 0 ? 1 : 0));
const latency = (micros) => (micros === 0 ? "–" : scaled(micros, ["µs", "ms"], 1000));
const percent = (part, all) => (all === 0 ? 0 : Math.min(100, (100 * part) / all));

function duration(seconds) {
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  if (whole < 86400) return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
  return `${Math.floor(whole / 86400)} d ${Math.floor((whole % 86400) / 3600)} h`;
}

// The end of a long name tells devices apart.
function fileName(path) {
  const name = path.split("/").pop();
  return name.length <= NAME_SHOWN_MAX ? name : `…${name.slice(1 - NAME_SHOWN_MAX)}`;
}

const toneOf = (word) => TONES[word] || "bad";

function toneOfArray(array) {
  if (!array.status) return "bad";
  const { suspended, state, parity, redundancy_left: left } = array.status;
  if (suspended) return "bad";
  return parity > 0 && left === 0 && state !== "failed" ? "warn" : toneOf(state);
}

const stateOf = (array) => (array.status ? array.status.state : "no answer");

// ---- what members do, from two looks at their counters ----

// The bound below which `share` of what was counted lies, in microseconds.
function quantile(counts, share) {
  const all = counts.reduce((sum, count) => sum + count, 0);
  let sum = 0;
  const at = counts.findIndex((count) => (sum += count) >= all * share && all > 0);
  return at < 0 ? 0 : 2 ** at;
}

function pace(before, now, seconds) {
  const began = before && before.operations <= now.operations && before.nanos <= now.nanos;
  const old = began ? before : { operations: 0, bytes: 0, latency: [] };
  const counts = now.latency.map((count, i) => Math.max(0, count - (old.latency[i] || 0)));
  return {
    rate: (now.operations - old.operations) / seconds,
    speed: (now.bytes - old.bytes) / seconds,
    p99: quantile(counts, 0.99),
  };
}

// For each member by its UUID; empty at the first look.
function paces(before, now) {
  const found = new Map();
  if (!before || !before.status || !now.status) return found;
  const seconds = (now.at - before.at) / 1000;
  for (const member of now.status.members) {
    const earlier = before.status.members.find((m) => m.uuid === member.uuid);
    if (!earlier) continue;
    found.set(member.uuid, {
      reads: pace(earlier.io.reads, member.io.reads, seconds),
      writes: pace(earlier.io.writes, member.io.writes, seconds),
    });
  }
  return found;
}

// ---- parts of an array ----

function layout(status) {
  const shape = `${status.level} ${status.data}+${status.parity}, ${size(status.chunk_bytes)} chunks, ${size(status.size_bytes)}`;
  return status.read_only ? `${shape}, read-only` : shape;
}

function title(array) {
  return [
    el("h2", {}, array.name),
    el("span", { class: "badge" }, stateOf(array)),
    el("span", { class: "layout" }, array.status ? layout(array.status) : ""),
  ];
}

function words(array) {
  const advice = array.advice;
  if (!advice) {
    const why = "It does not say how it is: it was stopped, or does not answer. See the server's log.";
    return [el("p", { class: "trouble" }, why)];
  }
  const next = advice.next.map((step) => el("li", {}, step));
  return [
    ...advice.troubles.map((text) => el("p", { class: "trouble" }, sentence(text))),
    // Its first word stands in the badge.
    el("p", {}, sentence(advice.state.replace(/^[a-z]+: /, ""))),
    el("p", { class: array.status.redundancy_left === 0 ? "risk" : "" }, sentence(advice.risk)),
    next.length ? el("div", { class: "next" }, el("b", {}, "What to do next"), el("ol", {}, ...next)) : null,
  ];
}

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

function shield(status) {
  const left = status.redundancy_left;
  const tone = left === 0 ? "bad" : left < status.parity ? "warn" : "good";
  const pips = Array.from({ length: status.parity }, (_, i) =>
    el("span", { class: i < left ? "pip full" : "pip" }));
  const text = status.parity === 0 ? "no redundancy" : `redundancy: ${left} of ${status.parity} left`;
  return el("div", { class: `shield ${tone}` }, ...pips, el("span", {}, text));
}

function toneOfMember(member) {
  const ails = member.slow_seconds !== null || errorsOf(member) > 0;
  return member.state === "in-sync" && ails ? "warn" : toneOf(shownState(member));
}

// Whoever has no slot and is gone has no part in the array any more.
const isFormer = (member) => member.slot === null && ["failed", "missing"].includes(member.state);

const shownState = (member) => (isFormer(member) ? "former" : member.state);

const errorsOf = (member) => member.read_errors + member.write_errors + member.checksum_errors;

function noteOf(member) {
  if (member.slow_seconds !== null) return "slow";
  if (member.state === "in-sync" && errorsOf(member) > 0) return "errors";
  return member.state;
}

const slotOf = (member) => (member.slot === null ? "–" : String(member.slot));

function block(member, status, doing) {
  const absent = ["failed", "missing"].includes(member.state);
  const rebuild = status.rebuilds.find((r) => r.member === member.slot && member.state !== "in-sync");
  const busy = doing ? doing.reads.speed + doing.writes.speed : 0;
  const done = rebuild && !absent ? percent(rebuild.done_bytes, rebuild.total_bytes) : null;
  const props = {
    class: `block ${toneOfMember(member)}${absent ? " absent" : ""}`,
    title: `${member.path || "not here"}, ${member.uuid}`,
  };
  return el("div", props,
    el("span", { class: "slot" }, slotOf(member)),
    el("span", { class: "state" }, noteOf(member)),
    el("span", { class: "file" }, member.path ? fileName(member.path) : "not here"),
    el("span", { class: "flow" }, absent ? " " : done === null ? speed(busy) : `${done.toFixed(1)} % done`),
    done === null ? null : el("span", { class: "fill" }, el("i", { "width%": done })));
}

function picture({ status, doing }) {
  const present = status.members.filter((member) => !isFormer(member));
  const blocks = present.map((member) => block(member, status, doing[member.uuid]));
  return [shield(status), el("div", { class: "blocks" }, ...blocks)];
}

function progress(what, tone, part, all, how) {
  const done = percent(part, all);
  return el("div", { class: `work-row ${tone}` },
    el("span", { class: "what" }, what),
    el("span", { class: "fill", role: "progressbar", "aria-label": what, "aria-valuenow": Math.round(done) },
      el("i", { "width%": done })),
    el("span", { class: "how" }, `${done.toFixed(1)} % ${how}`));
}

function left(work) {
  const eta = work.eta_seconds === null ? "" : `, ${duration(work.eta_seconds)} left`;
  return `of ${size(work.total_bytes)}, ${speed(work.bytes_per_second)}${eta}`;
}

function work(status) {
  const rows = status.rebuilds.map((r) => progress(`rebuild of ${r.member}`, "work", r.done_bytes, r.total_bytes, left(r)));
  const scrub = status.scrub;
  if (scrub.state === "running") rows.push(progress("scrub", "work", scrub.done_bytes, scrub.total_bytes, left(scrub)));
  if (scrub.state === "paused") rows.push(progress("scrub, paused", "idle", scrub.done_bytes, scrub.total_bytes, `of ${size(scrub.total_bytes)}`));
  const sum = (field) => scrub.members.reduce((all, m) => all + m[field], 0);
  const bad = sum("bad_blocks") + sum("bad_metadata");
  if (bad + scrub.lost_blocks + scrub.inconsistent_rows > 0) {
    const repaired = sum("repaired_blocks") + sum("repaired_metadata");
    const found = `scrub found ${bad} wrong blocks or pages, ${repaired} repaired, ${scrub.lost_blocks} lost, ${scrub.inconsistent_rows} inconsistent rows`;
    rows.push(el("p", { class: "none" }, found));
  }
  return rows.length ? [el("h3", {}, "Under way"), ...rows] : [];
}

function figure(name, value, part, all) {
  const done = percent(part, all);
  const tone = done > 90 ? "bad" : done > 70 ? "warn" : "good";
  const bar = all === undefined ? null : el("span", { class: `fill ${tone}` }, el("i", { "width%": done }));
  return el("div", { class: "figure" }, el("span", {}, name), el("b", {}, value), bar);
}

function figures(status) {
  const { clients, room } = status;
  const lane = room.fullest_lane_permille;
  const busySlots = room.slots - room.free_slots;
  return [
    figure("clients", `${clients.connected} of ${clients.max}`, clients.connected, clients.max),
    figure("journal in use", size(room.journal_used_bytes), room.journal_used_bytes, room.journal_bytes),
    figure("fullest lane", `${(lane / 10).toFixed(0)} %`, lane, 1000),
    figure("free slots", `${room.free_slots} of ${room.slots}`, busySlots, room.slots),
    figure("stripes in use", `${percent(status.used_stripes, status.total_stripes).toFixed(1)} %`),
    figure("blocks repaired", String(status.repaired_blocks)),
    figure("served for", duration(status.uptime_seconds)),
    ...soFar(status.availability),
    ...limited(status.limits),
  ];
}

// As `uraid status` has it: never rounded up to all of it.
const share = (part) => (part === 1 ? "100 %" : `${(Math.floor(part * 1e5) / 1e3).toFixed(3)} %`);

function soFar(seen) {
  const figures = [];
  if (seen && seen.served_share !== null) figures.push(figure("served so far", share(seen.served_share)));
  if (seen && seen.redundant_share !== null) figures.push(figure("all redundancy", share(seen.redundant_share)));
  return figures;
}

function limited({ iops, bytes_per_second: bytes }) {
  const figures = [];
  if (iops > 0) figures.push(figure("limit", `${iops}/s`));
  if (bytes > 0) figures.push(figure("limit", speed(bytes)));
  return figures;
}

const COLUMNS = [
  ["slot", "text"], ["member", "text path"], ["state", "text"], ["reads/s", "wide"], ["writes/s", "wide"],
  ["read", "wide"], ["written", "wide"], ["p99 read", "wide"], ["p99 write", "wide"], ["errors r/w/c", ""],
];

// On small screens the directory is left out.
function place(path) {
  if (!path) return "not here";
  const at = path.lastIndexOf("/") + 1;
  return [el("span", { class: "wide" }, path.slice(0, at)), path.slice(at)];
}

function row(member, doing) {
  const reads = doing ? doing.reads : { rate: 0, speed: 0, p99: 0 };
  const writes = doing ? doing.writes : { rate: 0, speed: 0, p99: 0 };
  const state = shownState(member) + (member.write_mostly ? ", write-mostly" : "");
  const slow = member.slow_seconds === null ? "" : `, slow for ${duration(member.slow_seconds)}`;
  const cells = [
    slotOf(member), place(member.path),
    el("span", { class: `badge ${toneOfMember(member)}` }, state + slow),
    rate(reads.rate), rate(writes.rate), speed(reads.speed), speed(writes.speed),
    latency(reads.p99), latency(writes.p99),
    `${member.read_errors}/${member.write_errors}/${member.checksum_errors}`,
  ];
  return el("tr", {}, ...cells.map((cell, i) => {
    const wrong = i === cells.length - 1 && errorsOf(member) > 0 ? " wrong" : "";
    return el("td", { class: COLUMNS[i][1] + wrong, title: i === 1 ? member.path || "" : "" }, cell);
  }));
}

function members({ status, doing }) {
  const head = COLUMNS.map(([name, kind]) => el("th", { class: kind }, name));
  const rows = status.members.map((member) => row(member, doing[member.uuid]));
  return el("table", {}, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}

function event(e) {
  const when = new Date(e.time);
  const text = when.toLocaleString([], { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
  return el("li", { class: toneOf(e.severity) },
    el("time", { datetime: e.time, title: e.time }, text),
    el("span", { class: "severity" }, e.severity),
    el("span", { class: "text" }, `${e.kind}: ${e.text}`),
    e.next && e.severity !== "info" ? el("span", { class: "then" }, `next: ${e.next}`) : null);
}

function events(list) {
  if (list.length === 0) return el("p", { class: "none" }, "Nothing has happened yet.");
  const items = list.slice().reverse().map(event);
  const first = el("ul", { class: "events" }, ...items.slice(0, EVENTS_SHOWN));
  const more = items.slice(EVENTS_SHOWN);
  if (more.length === 0) return first;
  return [first, el("details", {}, el("summary", {}, `${more.length} earlier ones`), el("ul", { class: "events" }, ...more))];
}

// ---- the last hour ----

const CHART = { height: 150, left: 62, right: 8, top: 8, bottom: 20 };
// As the styles have it: two columns of 300 pixels and what is between them.
const CHARTS_GAP = 18;
const CHARTS_ABREAST = 600 + CHARTS_GAP;
const CHART_NARROW = 400;
const HOUR_MILLIS = 3600 * 1000;

// The next of 1, 2, 5, 10, ... units: a scale that can be read.
function roundUp(number, base) {
  let unit = 1;
  while (unit * base <= number) unit *= base;
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000].find((s) => s * unit >= number);
  return unit * (step || base);
}

function line(samples, value, x, y) {
  // A gap in the samples is a gap in the line: nobody knows what was there.
  let path = "";
  let before = null;
  for (const sample of samples) {
    const joined = before !== null && sample.time_millis - before.time_millis < 2.5 * sample.span_millis;
    path += `${joined ? "L" : "M"}${x(sample).toFixed(1)} ${y(value(sample)).toFixed(1)}`;
    before = sample;
  }
  return path;
}

// `width`: in pixels, so that nothing is stretched; `values`: reads and writes of a sample; `text`: a value in words; `base`: 1000 or 1024.
function chart(name, samples, width, values, text, base) {
  const { height, left: from, right, top, bottom } = CHART;
  const end = samples.length ? samples[samples.length - 1].time_millis : 0;
  const x = (s) => width - right - ((end - s.time_millis) / HOUR_MILLIS) * (width - from - right);
  const peak = roundUp(Math.max(1, ...samples.map((s) => Math.max(...values(s)))), base);
  const y = (v) => height - bottom - (v / peak) * (height - top - bottom);
  const shown = samples.filter((s) => x(s) >= from);
  const parts = [];
  for (const share of [0, 0.5, 1]) {
    const at = y(peak * share);
    parts.push(svg("line", { class: "grid", x1: from, x2: width - right, y1: at, y2: at }));
    parts.push(svg("text", { x: from - 6, y: at + 4, "text-anchor": "end" }, share === 0 ? "0" : text(peak * share)));
  }
  for (const minutes of width < CHART_NARROW ? [60, 30, 0] : [60, 40, 20, 0]) {
    const at = width - right - (minutes / 60) * (width - from - right);
    const anchor = minutes === 0 ? "end" : minutes === 60 ? "start" : "middle";
    parts.push(svg("text", { x: at, y: height - 5, "text-anchor": anchor }, minutes === 0 ? "now" : `${minutes} min ago`));
  }
  ["reads", "writes"].forEach((kind, i) => {
    const value = (s) => values(s)[i];
    const path = line(shown, value, x, y);
    if (shown.length > 1 && !path.slice(1).includes("M")) {
      const area = `${path}L${x(shown[shown.length - 1]).toFixed(1)} ${y(0)}L${x(shown[0]).toFixed(1)} ${y(0)}Z`;
      parts.push(svg("path", { class: `${kind} area`, d: area }));
    }
    parts.push(svg("path", { class: kind, d: path }));
  });
  const cursor = svg("line", { class: "cursor", y1: top, y2: height - bottom, visibility: "hidden" });
  const drawing = svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": name }, ...parts, cursor);
  const key = el("span", { class: "key" });
  const tell = (sample) => {
    const [reads, writes] = sample ? values(sample) : [0, 0];
    key.replaceChildren(el("b", { class: "r" }, "read "), text(reads), el("b", { class: "w" }, "write "), text(writes));
  };
  tell(shown[shown.length - 1]);
  drawing.addEventListener("pointermove", (move) => {
    const box = drawing.getBoundingClientRect();
    const at = ((move.clientX - box.left) / box.width) * width;
    const nearest = shown.reduce((best, s) => (!best || Math.abs(x(s) - at) < Math.abs(x(best) - at) ? s : best), null);
    if (!nearest) return;
    fill(cursor, { x1: x(nearest), x2: x(nearest), visibility: "visible" }, []);
    tell(nearest);
    key.append(` at ${new Date(nearest.time_millis).toLocaleTimeString([], { hourCycle: "h23" })}`);
  });
  drawing.addEventListener("pointerleave", () => {
    cursor.setAttribute("visibility", "hidden");
    tell(shown[shown.length - 1]);
  });
  return el("div", { class: "chart" }, el("h3", {}, name, key), drawing);
}

function charts({ samples, width }) {
  const seconds = (s) => Math.max(s.span_millis, 1) / 1000;
  const bytes = (s) => [s.reads.bytes / seconds(s), s.writes.bytes / seconds(s)];
  const p99 = (s) => [s.reads.p99_micros, s.writes.p99_micros];
  if (samples.length === 0) return el("p", { class: "none" }, "Throughput and latency: the first sample comes ten seconds after the start.");
  return [
    chart("Throughput of clients", samples, width, bytes, speed, 1024),
    chart("Latency of clients, 99 of 100", samples, width, p99, (micros) => (micros === 0 ? "–" : latency(micros)), 1000),
  ];
}

// ---- the page ----

const sections = new Map();
let before = new Map();

function section(name) {
  if (!sections.has(name)) {
    const part = () => el("div", { class: "part" });
    const parts = {
      title: el("div", { class: "title" }), words: el("div", { class: "words" }), picture: part(), work: part(),
      charts: el("div", { class: "part charts" }), figures: el("div", { class: "part figures" }),
      members: el("div", { class: "part scroll" }), events: el("div", {}),
    };
    const happened = el("div", { class: "part" }, el("h3", {}, "What happened last"), parts.events);
    const { title: top, words: said, picture: drawn, work: doing, charts: hour, figures: counts, members: table } = parts;
    const node = el("section", { class: "array", id: `array-${name}` }, top, said, drawn, doing, hour, counts, table, happened);
    sections.set(name, { node, parts });
  }
  return sections.get(name);
}

function showArray(array) {
  const { node, parts } = section(array.name);
  node.className = `array ${toneOfArray(array)}`;
  show(parts.title, [array.name, stateOf(array), array.status && layout(array.status)], () => title(array));
  show(parts.words, array.advice, () => words(array));
  show(parts.events, array.events, events);
  const doing = Object.fromEntries(paces(before.get(array.name), array));
  const status = array.status;
  for (const part of [parts.picture, parts.work, parts.charts, parts.figures, parts.members]) part.hidden = !status;
  if (!status) return;
  show(parts.picture, { status, doing }, picture);
  show(parts.work, status, work);
  show(parts.figures, status, figures);
  show(parts.members, { status, doing }, members);
}

function showAll(overview) {
  const at = performance.now();
  const arrays = overview.arrays.map((array) => ({ ...array, at }));
  document.getElementById("host").textContent = `${overview.version} on ${overview.host}`;
  const worst = ["bad", "warn", "work", "good"].find((tone) => arrays.some((a) => toneOfArray(a) === tone));
  const mark = { bad: "✖", warn: "▲", work: "⟳", good: "✔" }[worst] || "";
  document.title = `${mark} ${arrays.map((a) => `${a.name} ${stateOf(a)}`).join(", ")} – uraid`;
  const links = arrays.length < 2 ? [] : arrays.map((a) => [a.name, toneOfArray(a), stateOf(a)]);
  show(document.getElementById("arrays"), links, () => links.map(([name, tone, state]) =>
    el("a", { href: `#array-${encodeURIComponent(name)}`, class: tone }, `${name}: ${state}`)));
  arrays.forEach(showArray);
  const main = document.getElementById("main");
  for (const { name } of arrays) {
    const { node } = section(name);
    if (node.parentNode !== main) main.append(node);
  }
  before = new Map(arrays.map((array) => [array.name, array]));
}

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(ANSWER_MILLIS_MAX) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

let answered = null;
let hour = [];

// Two charts beside each other where there is room for them.
function showTrends() {
  for (const { name, samples } of hour) {
    const node = section(name).parts.charts;
    const room = node.clientWidth || 320;
    const width = Math.floor(room >= CHARTS_ABREAST ? (room - CHARTS_GAP) / 2 : room);
    show(node, { samples, width }, charts);
  }
}

function showLive(error) {
  const live = document.getElementById("live");
  const gone = error !== null;
  const since = answered === null ? "" : `; this is how it was ${duration((performance.now() - answered) / 1000)} ago`;
  live.textContent = gone ? `The server does not answer${since}. Trying again ...` : `live, ${new Date().toLocaleTimeString([], { hourCycle: "h23" })}`;
  live.classList.toggle("gone", gone);
  document.getElementById("main").classList.toggle("stale", gone);
}

async function lookAtState() {
  let overview = null;
  let error = null;
  try {
    overview = await ask("overview");
    answered = performance.now();
  } catch (why) {
    error = why;
  }
  // What goes wrong in drawing is no silence of the server: it shows in the browser's console.
  if (overview) {
    showAll(overview);
    showTrends();
  }
  showLive(error);
}

async function lookAtTrend() {
  let trends = null;
  try {
    trends = await ask("trends");
  } catch {
    return; // The look at the state says so.
  }
  hour = trends.arrays;
  showTrends();
}

// One after the other, so that a server that is slow is not asked more and more.
async function again(look, millis) {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((resume) => setTimeout(resume, millis));
  }
}

document.addEventListener("visibilitychange", () => { if (!document.hidden) lookAtState(); });
window.addEventListener("resize", showTrends);
again(lookAtState, STATE_MILLIS);
again(lookAtTrend, TREND_MILLIS);
