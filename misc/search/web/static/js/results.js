// The cards of the results. A card announces what is to be done by an event that bubbles:
// "open", "similar", "failed"; its detail is the result, or the error.

import * as api from "./api.js";
import { $, count, fromTemplate, setPath, span } from "./dom.js";
import { toggleOverlay } from "./overlay.js";
import { applySelection } from "./selection.js";

let results = [];

export const shownResults = () => results;

// The images that share the place of a result: itself, its duplicates, and other people of its photo or video.
export const sharing = (result) => [result, ...result.duplicates, ...result.others];

export const resultOf = (id) => results.find((result) => sharing(result).some((one) => one.id === id));

export const cardOf = (result) => $("results").children[results.indexOf(result)];

function tell(item, type, detail) {
  item.dispatchEvent(new CustomEvent(type, { bubbles: true, detail }));
}

// Width to height, as in the image; within limits, so that a card holds its caption and fits a row.
function aspectOf({ width, height }) {
  return width && height ? Math.min(Math.max(width / height, 0.42), 2.4) : 5 / 11;
}

function setMark(item, right) {
  if (right === null || right === undefined) return;
  const mark = item.querySelector(".mark");
  item.classList.add(right ? "right" : "wrong");
  mark.hidden = false;
  mark.textContent = right ? "✓" : "✕";
  mark.setAttribute("aria-label", right ? "the correct person" : "another person");
}

function connectImage(item, result) {
  const [button, image] = [item.querySelector(".image"), item.querySelector("img")];
  const name = [result.file ?? result.path, span(result)].filter(Boolean).join(", ");
  button.setAttribute("aria-label", `Rank ${result.rank}, score ${result.score.toFixed(3)}, ${name}: open`);
  button.onclick = () => tell(item, "open", { result });
  image.src = api.thumbnail(result.id);
  image.dataset.id = result.id;
  image.onerror = () => {
    image.hidden = true;
    item.querySelector(".missing").hidden = false;
    item.querySelector(".where").hidden = true;
  };
}

function connectButtons(item, result, text) {
  const [copies, others, similar, where] = [".copies", ".others", ".similar", ".where"].map((name) => item.querySelector(name));
  copies.hidden = result.count < 2;
  copies.querySelector("span").textContent = `×${result.count}`;
  copies.setAttribute("aria-label", `Rank ${result.rank}: show its ${result.count} copies`);
  copies.onclick = () => tell(item, "open", { result, to: "copies" });
  others.hidden = !result.num_others;
  others.querySelector("span").textContent = `+${result.num_others}`;
  others.setAttribute("aria-label", `Rank ${result.rank}: show ${count(result.num_others, "other")} of this ${result.video ? "video" : "photo"}`);
  others.onclick = () => tell(item, "open", { result, to: "others" });
  similar.setAttribute("aria-label", `Rank ${result.rank}: more like this`);
  similar.onclick = () => tell(item, "similar", result);
  where.hidden = !text.trim();
  where.setAttribute("aria-label", `Rank ${result.rank}: regions that the score depends on`);
  where.onclick = () => {
    const image = item.querySelector("img");
    toggleOverlay(where, image, result.id, text, api.thumbnail(result.id)).catch((error) => tell(item, "failed", error));
  };
}

function card(result, text) {
  const item = fromTemplate("card");
  item.style.setProperty("--aspect", aspectOf(result));
  item.querySelector(".rank").textContent = result.rank;
  item.querySelector(".score").textContent = result.score.toFixed(3);
  item.querySelector("input").setAttribute("aria-label", `Select rank ${result.rank}`);
  setPath(item.querySelector(".path"), result.file ?? result.path);
  item.querySelector(".span").textContent = span(result);
  item.querySelector(".span").hidden = !span(result);
  setMark(item, result.right);
  connectImage(item, result);
  connectButtons(item, result, text);
  return item;
}

// Show results, after those that are shown or in their place.
export function showResults(found, text, { after = false } = {}) {
  const cards = found.map((result) => card(result, text));
  results = after ? [...results, ...found] : found;
  if (after) $("results").append(...cards);
  else $("results").replaceChildren(...cards);
  applySelection($("results").children, results);
}
