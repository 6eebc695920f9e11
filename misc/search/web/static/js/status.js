// What the page says: the state of the search, problems, news of the index, warnings.

import { $, count, element } from "./dom.js";

let noun = ["image"]; // what the index has: singular, plural

export function setStatus(text) {
  $("status").textContent = text;
}

export function setBusy(isBusy) {
  $("results").setAttribute("aria-busy", String(isBusy));
  document.body.classList.toggle("busy", isBusy);
}

function banner(id, text, act) {
  $(id).hidden = !text;
  $(id).querySelector("p").textContent = text;
  const button = $(id).querySelector("button");
  button.hidden = !act;
  button.onclick = act;
}

// A problem in words, with a button that tries again where that may help.
export const setProblem = (text = "", retry = null) => banner("problem", text, retry);
export const setNotice = (text = "", act = null) => banner("notice", text, act);

export function setWarnings(texts) {
  $("warnings").hidden = !texts.length;
  $("warnings").replaceChildren(...texts.map((text) => element("li", { textContent: text, dir: "auto" })));
}

// "40 shown · 120 of 300 images pass the filters · 57 of these score at least 0.2 · 12 ms"
export function summary(state, answer, numShown) {
  const { total, matching, passing, seconds } = answer;
  const isFiltered = matching < total;
  const parts = [`${numShown.toLocaleString("en")} shown`];
  if (isFiltered) parts.push(`${matching.toLocaleString("en")} of ${count(total, ...noun)} pass the filters`);
  if (passing !== null) {
    const whole = isFiltered ? "of these" : `of ${count(total, ...noun)}`;
    parts.push(`${passing.toLocaleString("en")} ${whole} score at least ${state.min}`);
  }
  if (!isFiltered && passing === null) parts.push(count(total, ...noun));
  return [...parts, `${Math.round(1000 * seconds)} ms`].join(" · ");
}

export function showAbout(about) {
  if (about.has_people) noun = ["entry", "entries"];
  const of = about.has_people ? ` of people in ${about.has_videos ? "photos and videos" : "photos"}` : "";
  const parts = [count(about.total, ...noun) + of, about.checkpoint];
  if (about.missing) parts.splice(1, 0, `${about.missing.toLocaleString("en")} missing`);
  if (!about.complete) parts.splice(1, 0, "more are being indexed");
  $("about").textContent = parts.join(" · ");
}
