// Live data: one stream of server-sent events per tab, closed while the tab is hidden.

import { showLocalTimes } from "./console.js";

const holder = document.querySelector("[data-live]");
const badge = document.getElementById("live-badge");
const rows = document.getElementById("live-rows");
const mostRows = Number(rows?.dataset.most ?? 0);

const RETRY_MILLISECONDS = 5000;

let newest = Number(holder?.dataset.after ?? 0);
let source = null;
let isWanted = holder !== null;

function show(state) {
  badge.textContent = state;
  badge.classList.toggle("live", state === "live");
}

function compact(value) {
  for (const [unit, suffix] of [[1e6, "\u202fM"], [1e3, "\u202fk"]]) {
    if (value >= unit) return (value / unit).toPrecision(3) + suffix;
  }
  return Number.isInteger(value) ? String(value) : value.toFixed(1);
}

function duration(milliseconds) {
  if (milliseconds === null) return "–";
  if (milliseconds < 1000) return `${Math.round(milliseconds)}\u202fms`;
  return `${(milliseconds / 1000).toFixed(milliseconds < 10000 ? 2 : 1)}\u202fs`;
}

function firstNote(p95) {
  return p95 === null ? "no answer yet" : `p95 ${duration(p95)}`;
}

function setGauge(id, value, note) {
  const element = document.getElementById(id);
  if (element === null) return;
  element.firstChild.textContent = `${value} `;
  if (note !== undefined) element.querySelector("small").textContent = note;
}

const KINDS = { ready: "good", failed: "bad", loading: "warn" };

function showState(name, state) {
  const badge = document.querySelector(`[data-model-state="${CSS.escape(name)}"] .badge`);
  if (badge === null || badge.textContent === state) return;
  badge.textContent = state;
  badge.className = `badge ${KINDS[state] ?? ""}`;
}

/** Say that requests are missing between the rows that are there and those to come. */
function addGap() {
  const link = document.createElement("a");
  link.href = location.href;
  link.textContent = "Load the page again";
  const row = rows.insertRow(0);
  row.className = "gap";
  row.append(document.createElement("td"));
  row.cells[0].colSpan = 13;
  row.cells[0].append("More requests ended here than are shown. ", link);
}

function addRows(fragments) {
  for (const fragment of fragments) {
    const template = document.createElement("template");
    template.innerHTML = fragment; // rendered and escaped by the server
    const row = template.content.querySelector("tr");
    if (rows.querySelector(`[data-request="${row.dataset.request}"]`) !== null) continue;
    rows.prepend(row);
  }
  const shown = rows.querySelectorAll("tr[data-request]");
  for (const row of [...shown].slice(mostRows)) row.remove();
  while (rows.lastElementChild?.classList.contains("gap")) rows.lastElementChild.remove();
  if (shown.length) {
    document.getElementById("live-table").hidden = false;
    document.getElementById("live-empty")?.remove();
  }
  showLocalTimes(rows);
}

function open() {
  if (source !== null || !isWanted || document.hidden) return;
  const url = new URL("events", new URL(document.querySelector(".brand").href + "/"));
  url.searchParams.set("after", newest);
  source = new EventSource(url);
  source.addEventListener("open", () => show("live"));
  source.addEventListener("error", () => {
    show("reconnecting");
    if (source.readyState === EventSource.CLOSED) recover();
  });
  source.addEventListener("tick", (event) => {
    show("live");
    newest = Math.max(newest, Number(event.lastEventId));
    const { rows: fragments, gauges, is_cut: isCut } = JSON.parse(event.data);
    if (isCut && rows !== null && rows.childElementCount && mostRows > fragments.length) addGap();
    if (rows !== null) addRows(fragments);
    if (gauges === null) return;
    setGauge("gauge-running", gauges.running);
    setGauge("gauge-waiting", gauges.waiting);
    setGauge("gauge-first", duration(gauges.first_token_p50), firstNote(gauges.first_token_p95));
    setGauge("gauge-speed", compact(gauges.tokens_per_second));
    for (const model of gauges.models) showState(model.name, model.state);
    const up = gauges.models.filter((model) => model.state === "ready" || model.state === "idle").length;
    setGauge("gauge-models", up, `of ${gauges.models.length}`);
  });
}

/** Try again after an answer that the browser gives up at: that of a proxy, or that nobody is signed in. */
async function recover() {
  source = null;
  const login = new URL("login", new URL(document.querySelector(".brand").href + "/"));
  const response = await fetch(login, { redirect: "manual", cache: "no-store" }).catch(() => null);
  if (response?.status === 200) {
    // Whoever is signed in would be led away from this page. What was typed here stays until the link is followed.
    isWanted = false;
    show("signed out");
    const link = document.createElement("a");
    link.className = "button";
    link.href = location.href;
    link.textContent = "Sign in";
    holder.after(link);
  } else {
    setTimeout(open, RETRY_MILLISECONDS);
  }
}

function close(state) {
  source?.close();
  source = null;
  show(state);
}

if (holder !== null) {
  document.addEventListener("visibilitychange", () => (document.hidden ? close("paused") : open()));
  document.getElementById("live-switch")?.addEventListener("click", (event) => {
    isWanted = !isWanted;
    event.currentTarget.setAttribute("aria-pressed", String(isWanted));
    isWanted ? open() : close("paused");
  });
  open();
}
