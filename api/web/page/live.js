// Results as they come. The stream of events is a doorbell: what is new is drawn by the server,
// by the filters of the address, so that live and listed results look the same.

import { localTimes, part, say, scrollOn, withQuery } from "./shared.js";
import { uploads } from "./upload.js";

const BELL_MS = 1000; // between two looks, however much comes
const PULSE_MS = 5000;
const RETRY_MS = 5000;
const MOST_ROWS = 400; // at the top; a page that stays open for weeks must not grow

const rows = document.getElementById("rows");
const newer = document.getElementById("newer");
const empty = document.getElementById("empty");
const query = new URLSearchParams(rows.dataset.query);
const span = new URLSearchParams(location.search).get("span");
const isFirstPage = !new URLSearchParams(location.search).has("before");

// --- the list ------------------------------------------------------------------------------------

const newestSeq = () => Number(rows.firstElementChild?.dataset.seq ?? 0);
const isAtTop = () => rows.getBoundingClientRect().top > -40;

let waiting = 0; // events that are not on the page yet
let isLooking = false;

async function look() {
  if (isLooking || !isFirstPage) return;
  isLooking = true;
  try {
    // With an empty list there is no position to start after: the newest page is what is new.
    const url = withQuery("/parts/rows", query, newestSeq() ? { after: newestSeq() } : {});
    const { nodes, isAll } = await part(url);
    if (newestSeq() && !isAll) rows.replaceChildren(); // more came than fits: begin anew
    for (const node of nodes) {
      localTimes(node);
      node.classList.add("row-new");
    }
    rows.prepend(...nodes);
    const isCut = !isAll || rows.childElementCount > MOST_ROWS;
    while (rows.childElementCount > MOST_ROWS) rows.lastElementChild.remove();
    if (isCut) scrollAgain();
    waiting = 0;
    newer.hidden = true;
    empty.hidden = rows.childElementCount > 0;
  } catch (error) {
    say(error.message);
  }
  isLooking = false;
}

function ring() {
  waiting += 1;
  setTimeout(() => {
    if (!waiting) return;
    if (isAtTop()) look();
    else {
      newer.textContent = waiting === 1 ? "One new result" : `${waiting} new results`;
      newer.hidden = false;
    }
  }, waiting === 1 ? 0 : BELL_MS);
}

newer.addEventListener("click", async () => {
  await look();
  document.getElementById("results-title").scrollIntoView({ block: "start" });
});

const scrollAgain = scrollOn(rows, document.getElementById("rows-end"),
  (last) => withQuery("/parts/rows", query, { before: last.dataset.seq }));

// --- the stream ----------------------------------------------------------------------------------

const live = document.getElementById("live");
const liveText = document.getElementById("live-text");
let stream;
let lastSeen = "";

function state(name, text) {
  live.dataset.state = name;
  liveText.textContent = text;
}

function listen() {
  if (stream || document.hidden) return; // browsers allow six connections: hidden tabs take none
  stream = new EventSource(withQuery("/v1/events", "", lastSeen ? { after: lastSeen } : {}));
  stream.addEventListener("open", () => {
    state("on", "live");
    if (!lastSeen) look(); // what came between the drawing of the page and now
  });
  stream.addEventListener("result", (event) => {
    lastSeen = event.lastEventId;
    ring();
    isPulseStale = true;
  });
  stream.addEventListener("error", () => {
    state("off", "connecting again");
    if (stream.readyState === EventSource.CLOSED) {
      stream = undefined;
      setTimeout(listen, RETRY_MS);
    }
  });
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    stream?.close();
    stream = undefined;
  } else {
    listen();
    pulse(true);
  }
});
addEventListener("pagehide", () => stream?.close());

// --- the numbers ---------------------------------------------------------------------------------

let isPulseStale = false;

async function swap(id, url) {
  const box = document.getElementById(id);
  const { nodes } = await part(url);
  nodes.forEach((node) => localTimes(node));
  const href = box.contains(document.activeElement) ? document.activeElement.getAttribute("href") : null;
  box.replaceChildren(...nodes);
  if (href) box.querySelector(`a[href="${CSS.escape(href)}"]`)?.focus();
}

async function pulse(isWanted) {
  if (document.hidden || !(isWanted || isPulseStale)) return;
  isPulseStale = false;
  try {
    await swap("pulse", withQuery("/parts/pulse", query, span ? { span } : {}));
  } catch {
    state("off", "no answer");
  }
}

async function side() {
  if (!document.hidden) await swap("side", "/parts/side").catch(() => state("off", "no answer"));
}

setInterval(pulse, PULSE_MS);
setInterval(() => pulse(true), 60_000); // the chart moves on, with or without results
setInterval(side, PULSE_MS);

// --- filters and uploads -------------------------------------------------------------------------

document.getElementById("filters").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = new URLSearchParams();
  for (const [name, value] of new FormData(event.target)) if (value) said.set(name, value);
  location.assign(withQuery("/", said));
});
for (const select of document.querySelectorAll("#filters select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}

uploads(document.getElementById("drop"), document.getElementById("uploads"));
listen();
