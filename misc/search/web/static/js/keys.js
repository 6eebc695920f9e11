// Keys of the grid. Only the controls of one card are in the order of Tab, so that it leads past the grid.

import { $ } from "./dom.js";

const controls = (item) => item.querySelectorAll("button, input");
let current = null;

export function setCurrent(item) {
  if (!item || item === current) return;
  for (const card of $("results").children) {
    for (const control of controls(card)) control.tabIndex = card === item ? 0 : -1;
  }
  current = item;
}

export function focusCard(item) {
  setCurrent(item);
  item?.querySelector(".image").focus();
}

const centre = (box) => (box.left + box.right) / 2;

// The card below or above that is nearest to this one's centre.
function verticalNeighbour(items, at, isDown) {
  const boxes = items.map((item) => item.getBoundingClientRect());
  const tops = boxes.map(({ top }) => Math.round(top)), own = tops[at];
  const beyond = tops.filter((top) => (isDown ? top > own + 1 : top < own - 1));
  if (!beyond.length) return at;
  const row = isDown ? Math.min(...beyond) : Math.max(...beyond);
  const distance = (number) => Math.abs(centre(boxes[number]) - centre(boxes[at]));
  const candidates = [...items.keys()].filter((number) => Math.abs(tops[number] - row) <= 1);
  return candidates.reduce((best, number) => (distance(number) < distance(best) ? number : best));
}

function target(items, at, key) {
  if (key === "ArrowLeft") return Math.max(at - 1, 0);
  if (key === "ArrowRight") return Math.min(at + 1, items.length - 1);
  if (key === "ArrowDown" || key === "ArrowUp") return verticalNeighbour(items, at, key === "ArrowDown");
  return { Home: 0, End: items.length - 1 }[key];
}

const CLICKS = { e: ".where", s: ".similar", x: ".pick input" };

function onKey(event) {
  const isWriting = event.target.matches("textarea, input:not([type=checkbox])");
  if (isWriting || event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  const items = [...$("results").children], at = items.indexOf(event.target.closest("#results > li"));
  const to = at < 0 ? undefined : target(items, at, event.key);
  const control = at < 0 || !CLICKS[event.key] ? null : items[at].querySelector(CLICKS[event.key]);
  if (event.key === "/") $("text").focus();
  else if (to !== undefined) focusCard(items[to]);
  else if (control && !control.hidden) control.click();
  else return;
  event.preventDefault();
}

export function connectKeys() {
  document.addEventListener("keydown", onKey);
  $("results").addEventListener("focusin", (event) => setCurrent(event.target.closest("#results > li")));
}
