// The console's page: asks GET /console/data once a second, and writes what came as text.
//
// Whatever a tenant, an operator or a rules document has written reaches the page by textContent alone. Rows are
// changed in place, so that focus, selection and a screen reader's place survive the next second.
"use strict";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

// --- words and numbers ---------------------------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en");
const figure = (value, digits = 0) =>
  value === null || value === undefined
    ? "–"
    : new Intl.NumberFormat("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);
const percent = (value) => (value === null ? "–" : `${new Intl.NumberFormat("en", { maximumFractionDigits: 2 }).format(value)} %`);
const moment = (seconds) => new Date(seconds * 1000).toISOString().replace("T", " ").slice(0, 19) + "Z";
const clock = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 19) + "Z";
const MIB = 1024 * 1024;

// --- building the page ---------------------------------------------------------------------------------------------

function element(name, { text, cls, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (cls) made.className = cls;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function write(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

function show(node, visible) {
  if (node.hidden === visible) node.hidden = !visible;
}

// A cell is a text, or {text, cls, title, ratio}: a ratio is drawn as a bar beside it, 1 is full.
function fillCell(node, cell) {
  const made = typeof cell === "object" && cell !== null ? cell : { text: cell };
  const key = JSON.stringify(made);
  if (node.dataset.key === key) return;
  node.dataset.key = key;
  const inner = element("bdi", { text: made.text, cls: made.cls });
  if (made.title) inner.title = made.title;
  node.replaceChildren(made.ratio === undefined ? inner : element("div", { cls: "measured" }, bar(made.ratio), inner));
}

function fillTable(table, columns, rows, empty) {
  const body = table.tBodies[0];
  table.setAttribute("role", "table");
  const asked = rows.length ? rows : [{ cells: [empty, ...columns.slice(1).map(() => "")] }];
  while (body.rows.length > asked.length) body.deleteRow(-1);
  asked.forEach(({ cells, cls }, at) => {
    const row = body.rows[at] ?? body.appendChild(element("tr", { role: "row" }));
    row.className = cls ?? "";
    columns.forEach((column, place) => {
      const known = row.cells[place];
      const node = known ?? row.appendChild(
        place === 0
          ? element("th", { scope: "row", role: "rowheader" })
          : element("td", { role: "cell", "data-label": column.label, cls: column.number ? "n" : "" }));
      show(node, place === 0 || cells[place] !== "");
      fillCell(node, cells[place]);
    });
  });
}

function makeHead(table, columns, ask, changed) {
  const row = element("tr", { role: "row" });
  for (const column of columns) {
    const head = element("th", { scope: "col", role: "columnheader", cls: column.number ? "n" : "" });
    if (column.sort) {
      const button = element("button", { type: "button", text: column.label });
      button.addEventListener("click", () => {
        ask.order = ask.sort === column.sort ? (ask.order === "up" ? "down" : "up") : column.number ? "down" : "up";
        [ask.sort, ask.page] = [column.sort, 0];
        changed();
      });
      head.append(button);
      head.dataset.sort = column.sort;
    } else head.textContent = column.label;
    row.append(head);
  }
  table.tHead.replaceChildren(row);
}

function markOrder(table, page) {
  for (const head of table.tHead.rows[0].cells)
    if (head.dataset.sort === page.sort) head.setAttribute("aria-sort", page.descending ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
}

function bar(ratio) {
  const width = Math.max(0, Math.min(ratio, 1)) * 100;
  return shape("svg", { class: "bar", viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    shape("rect", { class: "trough", width: 100, height: 10 }),
    shape("rect", { class: ratio >= 1 ? "over" : "fill", width, height: 10 }));
}

// --- what is asked -------------------------------------------------------------------------------------------------

const ask = {
  tenants: { word: "", sort: "name", order: "up", page: 0 },
  usage: { word: "", sort: "gpu_seconds", order: "down", page: 0 },
};

function query() {
  const made = new URLSearchParams();
  for (const [table, parts] of Object.entries(ask))
    for (const [name, value] of Object.entries(parts)) made.set(`${table}_${name}`, value);
  return made;
}

// --- sections ------------------------------------------------------------------------------------------------------

const STATE_CLASS = { splitting: "good", promoted: "good", paused: "warn", reverted: "bad", unknown: "warn" };
const stateOf = (rollout) => (rollout.readable ? rollout.state : "unknown");

const EVIDENCE = [
  { label: "whose" }, { label: "signal" }, { label: "units", number: true }, { label: "log e", number: true },
  { label: "threshold", number: true }, { label: "of a verdict", number: true },
];
const HISTORY = [{ label: "when" }, { label: "what" }, { label: "who" }, { label: "why" }];

function makeCard() {
  const part = (name, options) => element(name, options);
  const card = part("article", { cls: "card" });
  const table = (caption, columns) => {
    const made = element("table", {}, element("caption", { text: caption }), part("thead"), part("tbody"));
    makeHead(made, columns);
    return made;
  };
  card.parts = {
    title: part("bdi"), badge: part("span", { cls: "badge" }), summary: part("p"), names: part("p", { cls: "quiet" }),
    share: part("div"), course: part("div"), problems: part("ul", { cls: "warn" }),
    evidence: table("Evidence of this chapter, of all tenants together", EVIDENCE),
    groups: table("Evidence of this chapter, of single tenants", EVIDENCE), history: table("Verdicts and words, the newest first", HISTORY),
  };
  const { title, badge, summary, names, share, course, problems, evidence, groups, history } = card.parts;
  card.append(element("h3", {}, title, badge),
    element("div", { cls: "pair" },
      element("div", {}, summary, share, names, problems), course), history, evidence,
    element("details", {}, element("summary", { text: "Evidence of single tenants" }), groups));
  return card;
}

function fillCard(card, rollout) {
  if (card.dataset.key === JSON.stringify(rollout)) return;
  card.dataset.key = JSON.stringify(rollout);
  const { title, badge, summary, names, share, course, problems, evidence, groups, history } = card.parts;
  const state = stateOf(rollout);
  write(title, `${rollout.model}: ${rollout.candidate} against ${rollout.stable}`);
  write(badge, state);
  badge.className = `badge ${STATE_CLASS[state] ?? ""}`;
  const realised = rollout.all_units ? percent(rollout.realised_share * 100) : "nothing yet";
  write(summary, `Wanted ${percent(rollout.percent)}, realised ${realised} `
    + `(${whole.format(rollout.units)} of ${whole.format(rollout.all_units)} units, chapter ${rollout.chapter}); `
    + `mirrored ${percent(rollout.mirror_percent)}.`);
  share.replaceChildren(shape("svg", { class: "share", viewBox: "0 0 100 14", preserveAspectRatio: "none", role: "img",
    "aria-label": `realised ${realised}; the mark is at the wanted ${percent(rollout.percent)}` },
    shape("rect", { class: "trough", width: 100, height: 14 }),
    shape("rect", { class: "fill", width: rollout.realised_share * 100, height: 14 }),
    shape("rect", { class: "mark", x: Math.min(rollout.percent, 99.5), width: 0.5, height: 14 })));
  const scopes = Object.entries(rollout.scopes).map(([scope, its]) => `${scope} ${its}`);
  const told = [
    rollout.pinned ? `pinned to it: ${rollout.pinned_names.join(", ")}${rollout.pinned > rollout.pinned_names.length ? " and more" : ""}` : "",
    rollout.beta ? `beta tenants: ${whole.format(rollout.beta)}` : "",
    scopes.length ? scopes.join(", ") + (rollout.scope_count > scopes.length ? " and more" : "") : "",
    rollout.next_step ? `next step: ${rollout.next_step}` : "",
  ].filter(Boolean);
  write(names, told.join("; "));
  problems.replaceChildren(...rollout.problems.map((text) => element("li", {}, element("bdi", { text }))));
  show(problems, rollout.problems.length > 0);
  course.replaceChildren(element("p", { cls: "quiet",
    text: `Strongest evidence of all: ${figure(rollout.suspicion, 3)} of a verdict` }), drawCourse(rollout.course));
  const row = (each) => ({ cells: [
    each.scope, each.signal + (each.visit > 1 ? `, visit ${each.visit}` : "") + (each.covered ? "" : " (readings missing: no verdict)"),
    whole.format(each.units), figure(each.log_e, 2), figure(each.log_threshold, 2),
    { text: figure(each.ratio, 3), ratio: each.ratio, cls: each.ratio >= 1 ? "bad" : "" },
  ] });
  const ofAll = rollout.evidence.filter((each) => each.scope === "all").map(row);
  const ofOne = rollout.evidence.filter((each) => each.scope !== "all").map(row);
  fillTable(evidence, EVIDENCE, ofAll, "No evidence yet");
  fillTable(groups, EVIDENCE, ofOne, "No evidence yet");
  show(groups.parentElement, ofOne.length > 0);
  fillTable(history, HISTORY, rollout.history.map((entry) => ({ cells: [
    moment(entry.at_s), { text: `${entry.scope} ${entry.kind}`, cls: STATE_CLASS[entry.kind] ?? "" }, entry.who, entry.why,
  ] })), "Nothing has happened yet");
}

function drawCourse(points) {
  const most = Math.max(1.1, ...points.map(([ratio]) => ratio));
  const least = Math.min(0, ...points.map(([ratio]) => ratio));
  const y = (ratio) => 46 - ((ratio - least) / (most - least)) * 44;
  const line = points.map(([ratio], at) => `${(at / Math.max(1, points.length - 1)) * 100},${y(ratio)}`).join(" ");
  return shape("svg", { class: "course", viewBox: "0 0 100 48", preserveAspectRatio: "none", role: "img",
    "aria-label": "the strongest evidence over the last 20 minutes; the dashed line is a verdict" },
    shape("line", { class: "limit", x1: 0, x2: 100, y1: y(1), y2: y(1) }),
    shape("polyline", { class: "line", points: line }));
}

const VERSIONS = [
  { label: "version" }, { label: "role" }, { label: "wanted", number: true }, { label: "realised", number: true },
  { label: "requests", number: true }, { label: "pinned tenants", number: true }, { label: "image" },
];

function fillVersions(versions) {
  const cards = $("cards");
  while (cards.children.length > versions.rollouts.length) cards.lastElementChild.remove();
  versions.rollouts.forEach((rollout, at) => fillCard(cards.children[at] ?? cards.appendChild(makeCard()), rollout));
  write($("rollouts-more"), versions.rollouts.length === 0 ? "No model has a rollout."
    : versions.rollouts_of > versions.rollouts.length ? `${versions.rollouts_of - versions.rollouts.length} more: tenantry rollout status` : "");
  fillTable($("versions-table"), VERSIONS, versions.rows.map((row) => ({ cells: [
    `${row.model} ${row.version}`, { text: row.roles.join(", "), cls: row.roles[0] === "unused" ? "quiet" : "" },
    { text: percent(row.wanted), ratio: row.wanted / 100.0001 }, percent(row.realised), whole.format(row.requests),
    whole.format(row.pinned), row.image || "–",
  ] })), "No models");
  write($("versions-more"), versions.of > versions.rows.length ? `${versions.of - versions.rows.length} more versions are not shown` : "");
}

const TENANTS = [
  { label: "tenant", sort: "name" }, { label: "tier", sort: "tier" }, { label: "comes by" }, { label: "pins" },
  { label: "beta" }, { label: "quota spent", sort: "quota", number: true },
  { label: "requests", sort: "requests", number: true }, { label: "failed", sort: "failed", number: true },
];

function credentials(row) {
  const kinds = [row.keys ? `${row.keys} API key${row.keys > 1 ? "s" : ""}` : "", row.token ? "token" : "", row.certificate ? "certificate" : ""];
  return kinds.filter(Boolean).join(", ") || { text: "nothing", cls: "warn" };
}

function quota(cell) {
  if (cell === null) return "no quota";
  const minute = cell.per_minute === null ? "" : `${whole.format(cell.per_minute)} a minute`;
  if (cell.per_period === null) return minute;
  const used = cell.used === null ? "not heard of yet" : `${figure(cell.used, 1)} of ${whole.format(cell.per_period)} (${percent(cell.ratio * 100)})`;
  return { text: [used, minute].filter(Boolean).join("; "), ratio: cell.ratio ?? 0 };
}

function fillTenants(page) {
  fillTable($("tenants-table"), TENANTS, page.rows.map((row) => ({ cells: [
    row.in_rules ? row.name : `${row.name} (not in the rules)`, row.tier || "–", credentials(row),
    Object.entries(row.pins).map(([model, version]) => `${model} ${version}`).join(", ")
      + (row.pin_count > Object.keys(row.pins).length ? " and more" : "") || "–",
    row.beta ? "yes" : "–", quota(row.quota), whole.format(row.requests), whole.format(row.failed),
  ] })), "Nobody");
  place("tenants", page);
}

const USAGE = [
  { label: "tenant", sort: "tenant" }, { label: "model", sort: "model" }, { label: "paid by" },
  { label: "requests", sort: "requests", number: true }, { label: "tokens in (cached) / out", sort: "tokens", number: true },
  { label: "compute units", sort: "compute_units", number: true }, { label: "GPU-seconds", sort: "gpu_seconds", number: true },
  { label: "peak KV memory, MiB", sort: "peak_memory_bytes", number: true },
];

function fillUsage(usage) {
  write($("usage-period"), usage.period);
  const age = usage.as_of_s === null ? "" : `What follows was booked by ${clock(usage.as_of_s)}.`;
  write($("usage-state"), usage.state === "ok" ? "" : usage.state === "waiting" ? "The ledger is being asked." : `${usage.reason}. ${usage.state === "away" ? age : ""}`);
  $("usage-state").className = usage.state === "away" ? "warn" : "quiet";
  show($("usage-body"), usage.table !== null);
  if (usage.table === null) return;
  const tokens = (row) => `${whole.format(row.input_tokens)}${row.cached_tokens ? ` (${whole.format(row.cached_tokens)})` : ""} / ${whole.format(row.output_tokens)}`;
  const cells = (row) => [whole.format(row.requests), tokens(row), figure(row.compute_units, 3), figure(row.gpu_seconds, 3), figure(row.peak_memory_bytes / MIB, 1)];
  const rows = usage.table.rows.map((row) => ({ cells: [
    row.tenant || "–", row.model || "–",
    (row.owner === "tenant" ? "tenant" : `operator (${row.owner})`) + (row.kind === "request" ? "" : `, ${row.kind}`) + (row.corrects ? `, corrects ${row.corrects}` : ""),
    ...cells(row),
  ] }));
  if (rows.length) rows.push({ cls: "sum", cells: ["all that was found", "–", "–", ...cells(usage.total)] });
  fillTable($("usage-table"), USAGE, rows, "Nothing was booked");
  place("usage", usage.table);
}

const REFUSALS = [
  { label: "last" }, { label: "tenant" }, { label: "code" }, { label: "status", number: true }, { label: "path" },
  { label: "store" }, { label: "how often", number: true },
];

function fillRefusals(refusals) {
  write($("refusals-total"), `${whole.format(refusals.total)} since the start`);
  fillTable($("refusals-table"), REFUSALS, refusals.rows.map((row) => ({ cells: [
    moment(row.last_s), row.tenant || "nobody verified", { text: row.code, cls: "code" }, String(row.status),
    { text: row.path || "–", cls: "code" }, row.store || "–", whole.format(row.count),
  ] })), "None");
}

const STORES = [{ label: "store" }, { label: "kind" }, { label: "isolation" }, { label: "proof" }, { label: "engine" }, { label: "why" }];

function fillHealth(health) {
  const up = (is) => (is ? { text: "answers", cls: "good" } : { text: "does not answer", cls: "bad" });
  const facts = [
    ["Rules", health.rules_state === "live" ? { text: `live, ${health.tenants} tenants, ${health.models} models`, cls: "good" }
      : { text: "the newest document was refused; the last good one is live", cls: "bad" }],
    ["Document", `${health.rules_digest}, the ${whole.format(health.generation)}. that went live`],
    ["State store", up(health.state_store_up && health.history_up)], ["Quota store", up(health.quota_store_up)],
    ["Open exchanges", whole.format(health.open_exchanges)], ["Requests", `${whole.format(health.requests)} since the start`],
    ["Version", `${health.version}, process ${health.pid} since ${moment(health.started_s)}`],
  ];
  const list = $("facts");
  if (list.children.length !== facts.length * 2)
    list.replaceChildren(...facts.flatMap(([name]) => [element("dt", { text: name }), element("dd")]));
  facts.forEach(([, cell], at) => fillCell(list.children[at * 2 + 1], cell));
  const problems = health.problems.map((text) => element("li", {}, element("bdi", { text })));
  if (health.problem_count > problems.length) problems.push(element("li", { text: `and ${health.problem_count - problems.length} more` }));
  if ($("problems").dataset.key !== JSON.stringify(health.problems)) {
    $("problems").dataset.key = JSON.stringify(health.problems);
    $("problems").replaceChildren(...problems);
  }
  show($("problems-box"), problems.length > 0);
  fillTable($("stores-table"), STORES, health.stores.map((row) => ({ cells: [
    row.store, row.kind, row.isolation, { text: row.standing, cls: row.standing === "safe" ? "good" : "bad" },
    row.version || "–", row.reasons.join("; ") || "–",
  ] })), "No stores");
}

function fillStrip({ health, versions }) {
  const reverted = versions.rollouts.filter((rollout) => rollout.state === "reverted").map((rollout) => rollout.model);
  const parts = [
    health.rules_state === "live" ? { text: "rules live", cls: "good" } : { text: "rules refused", cls: "bad" },
    reverted.length ? { text: `reverted: ${reverted.join(", ")}`, cls: "bad" } : { text: "no rollout reverted", cls: "good" },
    { text: `${whole.format(health.open_exchanges)} open exchanges` }, { text: `tenantry ${health.version}`, cls: "quiet" },
  ];
  const strip = $("strip");
  while (strip.children.length < parts.length) strip.append(element("li"));
  parts.forEach((part, at) => fillCell(strip.children[at], part));
}

let known = null;
function tell({ versions, health }) {
  const now = new Map(versions.rollouts.map((rollout) => [rollout.model, stateOf(rollout)]));
  now.set("", health.rules_state);
  const changed = [...now].filter(([name, state]) => known !== null && known.has(name) && known.get(name) !== state);
  if (changed.length) write($("told"), changed.map(([name, state]) => `${name === "" ? "rules" : `rollout of ${name}`}: ${state}`).join(", "));
  known = now;
}

function place(table, page) {
  ask[table].page = page.page;
  markOrder($(`${table}-table`), page);
  write($(`${table}-found`), page.found === page.of ? whole.format(page.of) : `${whole.format(page.found)} of ${whole.format(page.of)}`);
  write($(`${table}-place`), `page ${page.page + 1} of ${page.pages}`);
  $(`${table}-previous`).disabled = page.page === 0;
  $(`${table}-next`).disabled = page.page + 1 >= page.pages;
}

function fill(shown) {
  fillStrip(shown);
  tell(shown);
  fillVersions(shown.versions);
  fillTenants(shown.tenants);
  fillUsage(shown.usage);
  fillRefusals(shown.refusals);
  fillHealth(shown.health);
}

// --- asking --------------------------------------------------------------------------------------------------------

let tag = "";
let timer = 0;
let asking = null;
let heard = 0;

async function look() {
  clearTimeout(timer);
  asking?.abort();
  const mine = (asking = new AbortController());
  const patience = setTimeout(() => mine.abort("late"), PATIENCE_MS);
  try {
    const headers = tag ? { "if-none-match": tag } : {};
    const answer = await fetch(`/console/data?${query()}`, { headers, signal: mine.signal, credentials: "same-origin" });
    if (answer.status === 401) return ask401();
    if (answer.status === 200) {
      const shown = await answer.json();
      if (mine !== asking) return;
      fill(shown);
      tag = answer.headers.get("etag") ?? "";
    } else if (answer.status !== 304) throw new Error(`the sidecar answered ${answer.status}`);
    heard = Date.now();
    enter();
  } catch (error) {
    if (mine !== asking) return;
    const since = heard ? ` Figures are of ${clock(heard / 1000)}.` : "";
    write($("stale"), `The sidecar does not answer.${since}`);
    show($("stale"), true);
  } finally {
    clearTimeout(patience);
  }
  if (mine === asking && !document.hidden) timer = setTimeout(look, EVERY_MS);
}

function enter() {
  const first = $("page").hidden;
  for (const id of ["page", "strip", "sections", "logout"]) show($(id), true);
  show($("login"), false);
  show($("stale"), false);
  if (first && document.activeElement?.closest("#login")) $("main").focus({ preventScroll: true });
}

function ask401() {
  for (const id of ["page", "strip", "sections", "logout", "stale"]) show($(id), false);
  const first = $("login").hidden;
  show($("login"), true);
  if (first) $("token").focus();
  [tag, known] = ["", null];
}

const post = (path, body) => fetch(path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body), credentials: "same-origin" });

async function login(event) {
  event.preventDefault();
  const token = $("token").value;
  write($("login-error"), "");
  try {
    const answer = await post("/console/login", { token });
    if (answer.status === 204) {
      $("token").value = "";
      return look();
    }
    write($("login-error"), `Not logged in: ${(await answer.json()).error}.`);
  } catch {
    write($("login-error"), "The sidecar does not answer.");
  }
  $("token").select();
}

async function logout() {
  clearTimeout(timer);
  asking?.abort();
  asking = null;
  await post("/console/logout", {}).catch(() => null);
  location.reload(); // nothing of what was shown stays in this document
}

function begin() {
  makeHead($("versions-table"), VERSIONS);
  makeHead($("refusals-table"), REFUSALS);
  makeHead($("stores-table"), STORES);
  for (const [table, columns] of [["tenants", TENANTS], ["usage", USAGE]]) {
    makeHead($(`${table}-table`), columns, ask[table], look);
    let wait = 0;
    $(`${table}-word`).addEventListener("input", (event) => {
      clearTimeout(wait);
      [ask[table].word, ask[table].page] = [event.target.value, 0];
      wait = setTimeout(look, 150);
    });
    $(`${table}-previous`).addEventListener("click", () => { ask[table].page -= 1; look(); });
    $(`${table}-next`).addEventListener("click", () => { ask[table].page += 1; look(); });
  }
  $("login-form").addEventListener("submit", login);
  $("logout").addEventListener("click", logout);
  document.addEventListener("visibilitychange", () => { if (!document.hidden && !$("page").hidden) look(); });
  look();
}

begin();
