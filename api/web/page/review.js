// Review by keyboard. A tile is a result that waits; the panel shows the one in hand.

import { part, patch, say, withQuery } from "./shared.js";
import { groups, hash } from "./alike.js";

const AT_ONCE = 4; // corrections that are sent at a time
const NEAR_END = 12; // tiles left when more are fetched

const list = document.getElementById("tiles");
const panel = document.getElementById("panel");
const progress = document.getElementById("progress");
const progressText = document.getElementById("progress-text");
const buttons = Object.fromEntries(["accept", "undo", "accept-all", "select-alike"].map((id) => [id, document.getElementById(id)]));
const otherLabel = document.getElementById("other-label");

let now; // the tile in hand
let anchor; // where a range begins
const alike = new Map(); // tile -> the tiles that look like it, itself among them
const past = []; // what can be undone: [[tile, label], ...] each
let reviewed = Number(progressText.dataset.reviewed);
let waiting = Number(progressText.dataset.waiting);

const tiles = () => [...list.children];
const open = () => tiles().filter((tile) => !tile.classList.contains("tile-done"));
const selected = () => tiles().filter((tile) => tile.getAttribute("aria-selected") === "true");
const inHand = () => (selected().length ? selected() : [now]).filter((tile) => tile && !tile.classList.contains("tile-done"));
const whole = (number) => new Intl.NumberFormat().format(number);

// --- which one -----------------------------------------------------------------------------------

function take(tile, { range = false, keep = false } = {}) {
  if (!tile) return;
  now?.classList.remove("tile-now");
  now = tile;
  now.classList.add("tile-now");
  list.setAttribute("aria-activedescendant", now.id);
  now.scrollIntoView({ block: "nearest" });
  if (range) select(between(anchor ?? tile, tile));
  else {
    anchor = tile;
    if (!keep) select([]);
  }
  panel.replaceChildren(now.querySelector(".tile-panel").content.cloneNode(true));
  show();
}

function between(one, other) {
  const all = tiles();
  const [from, to] = [all.indexOf(one), all.indexOf(other)].sort((a, b) => a - b);
  return all.slice(from, to + 1).filter((tile) => !tile.classList.contains("tile-done"));
}

function select(chosen) {
  const wanted = new Set(chosen);
  for (const tile of tiles()) tile.setAttribute("aria-selected", String(wanted.has(tile)));
}

function show() {
  const chosen = selected().length;
  const group = alike.get(now) ?? [];
  document.getElementById("selected").textContent = chosen ? `${whole(chosen)} selected` : "";
  buttons["accept-all"].hidden = chosen < 2;
  buttons["accept-all"].textContent = `Accept ${whole(chosen)}`;
  buttons["select-alike"].hidden = group.length < 2;
  buttons["select-alike"].textContent = `Select ${whole(group.length)} alike`;
  buttons.accept.disabled = inHand().length === 0;
  buttons.undo.disabled = past.length === 0;
  progress.max = Math.max(reviewed + waiting, 1);
  progress.value = reviewed;
  progressText.textContent = `${whole(reviewed)} of ${whole(reviewed + waiting)} reviewed`;
  const isOver = waiting <= 0 && open().length === 0;
  document.getElementById("empty").hidden = !isOver;
}

/** Tiles in a row, as the grid has been laid out. */
function columns() {
  return getComputedStyle(list).gridTemplateColumns.split(" ").length;
}

function move(by, range) {
  const all = tiles();
  const at = Math.min(Math.max(all.indexOf(now) + by, 0), all.length - 1);
  take(all[at], { range });
  if (all.length - at < NEAR_END) more();
}

function next() {
  const all = tiles();
  const from = all.indexOf(now);
  const rest = [...all.slice(from + 1), ...all.slice(0, from)];
  take(rest.find((tile) => !tile.classList.contains("tile-done")) ?? now);
  if (open().length < NEAR_END) more();
}

// --- what it is ----------------------------------------------------------------------------------

/** Say of each tile in hand that it is `label` (null: what the model said). */
async function answer(label) {
  const chosen = inHand();
  if (!chosen.length) return;
  const told = await each(chosen, async (tile) => {
    const isRight = label === null || label === tile.dataset.label;
    await tell(tile, isRight ? { reviewed: true } : { corrected_label: label });
    done(tile, label ?? tile.dataset.label);
  });
  if (told.length) past.push(told);
  reviewed += told.length;
  waiting -= told.length;
  select([]);
  if (chosen.length > 1) say(`${whole(told.length)} ${label === null ? "accepted" : `set to ${label}`}. U takes it back.`);
  next();
  show();
}

async function undo() {
  const told = past.pop();
  if (!told) return;
  const back = await each(told, async (tile) => {
    await tell(tile, { reviewed: false });
    tile.classList.remove("tile-done");
    tile.querySelector(".tile-said").textContent = tile.dataset.label;
  });
  reviewed -= back.length;
  waiting += back.length;
  take(back[0] ?? now);
  say(back.length === 1 ? "Taken back." : `${whole(back.length)} taken back.`);
}

async function tell(tile, said) {
  const { etag } = await patch(tile.dataset.id, tile.dataset.etag, said);
  tile.dataset.etag = etag;
}

function done(tile, label) {
  tile.classList.add("tile-done");
  tile.querySelector(".tile-said").textContent = label;
}

/** Do it to all, a few at a time; gives those with which it went well. */
async function each(chosen, work) {
  const queue = [...chosen];
  const good = [];
  await Promise.all(Array.from({ length: AT_ONCE }, async () => {
    while (queue.length) {
      const tile = queue.shift();
      try {
        await work(tile);
        good.push(tile);
      } catch (error) {
        if (error.code === "precondition_failed") {
          done(tile, "changed by somebody else");
          waiting -= 1;
        }
        say(error.message);
      }
    }
  }));
  return good;
}

// --- more, and what is alike ---------------------------------------------------------------------

let isFetching = false;

async function more() {
  if (isFetching || list.dataset.more !== "true") return;
  isFetching = true;
  const last = tiles().reduce((one, other) => (
    Number(other.dataset.confidence) - Number(one.dataset.confidence)
      || Number(other.dataset.seq) - Number(one.dataset.seq)) > 0 ? other : one);
  try {
    const { nodes, isAll } = await part(withQuery("/parts/tiles", "", { after: last.dataset.id }));
    list.append(...nodes);
    list.dataset.more = String(!isAll);
    await group(nodes);
  } catch (error) {
    say(error.message);
  }
  isFetching = false;
}

/** Put what looks alike side by side, behind the most doubtful of it. */
async function group(nodes) {
  const items = await Promise.all(nodes.map(async (tile) => {
    const image = tile.querySelector("img");
    if (image) image.loading = "eager";
    return { tile, label: tile.dataset.label, sha256: tile.dataset.sha256, hash: image && await hash(image) };
  }));
  for (const found of groups(items)) {
    if (found.length < 2) continue;
    const together = found.map(({ tile }) => tile);
    for (const tile of together) {
      alike.set(tile, together);
      const badge = tile.querySelector(".tile-alike");
      badge.textContent = `${together.length} alike`;
      badge.hidden = false;
    }
    together[0].after(...together.slice(1));
  }
  show();
}

// --- hands ---------------------------------------------------------------------------------------

list.addEventListener("click", (event) => {
  const tile = event.target.closest(".tile");
  if (!tile) return;
  if (event.ctrlKey || event.metaKey) toggle(tile);
  else take(tile, { range: event.shiftKey });
});
list.addEventListener("mousedown", (event) => { if (event.shiftKey) event.preventDefault(); });
panel.addEventListener("click", (event) => {
  const choice = event.target.closest(".choice");
  if (choice) answer(choice.dataset.label);
});
buttons.accept.addEventListener("click", () => answer(null));
buttons["accept-all"].addEventListener("click", () => answer(null));
buttons["select-alike"].addEventListener("click", () => selectAlike());
buttons.undo.addEventListener("click", undo);
document.getElementById("other").addEventListener("submit", (event) => {
  event.preventDefault();
  const label = otherLabel.value.trim();
  if (!label) return;
  otherLabel.value = "";
  otherLabel.blur();
  list.focus();
  answer(label);
});

function toggle(tile) {
  const was = tile.getAttribute("aria-selected") === "true";
  tile.setAttribute("aria-selected", String(!was));
  take(tile, { keep: true });
}

function selectAlike() {
  select((alike.get(now) ?? []).filter((tile) => !tile.classList.contains("tile-done")));
  show();
}

const KEYS = {
  ArrowLeft: (event) => move(-1, event.shiftKey),
  ArrowRight: (event) => move(1, event.shiftKey),
  ArrowUp: (event) => move(-columns(), event.shiftKey),
  ArrowDown: (event) => move(columns(), event.shiftKey),
  Home: (event) => move(-Infinity, event.shiftKey),
  End: (event) => move(Infinity, event.shiftKey),
  Enter: () => answer(null),
  " ": () => now && toggle(now),
  u: undo,
  g: selectAlike,
  l: () => otherLabel.focus(),
  Escape: () => { select([]); show(); },
};

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target === otherLabel) {
    if (event.key === "Escape") list.focus();
    return;
  }
  // Enter and Space belong to the control that has the focus.
  if (event.target.closest("a, button, summary, input") && (event.key === "Enter" || event.key === " ")) return;
  const number = Number(event.key);
  const choices = panel.querySelectorAll(".choice");
  if (number >= 1 && number <= 9 && choices[number - 1]) answer(choices[number - 1].dataset.label);
  else if (KEYS[event.key] ?? KEYS[event.key.toLowerCase()]) (KEYS[event.key] ?? KEYS[event.key.toLowerCase()])(event);
  else return;
  event.preventDefault();
});

if (list.firstElementChild) {
  group(tiles()).then(() => { if (!now) take(tiles()[0]); });
  take(tiles()[0]);
  list.focus({ preventScroll: true });
}
