// The search that the page shows: asked for, shown, continued.

import * as address from "./address.js";
import * as api from "./api.js";
import { $ } from "./dom.js";
import { remember } from "./history.js";
import { updateRecall } from "./recall.js";
import { showResults, shownResults } from "./results.js";
import { setBusy, setNotice, setProblem, setStatus, setWarnings, showAbout, summary } from "./status.js";

const MOST = 200; // results of one request
const UPDATED = "The index was updated: these are the results of the new one.";

let about = null;
let state = null; // of the results that are shown
let answer = null; // the latest one for them
let sought = null; // key of the search that is shown or under way
let running = null; // the AbortController of the search under way
let continuing = null; // the promise of the results under way that follow those shown

export const shownState = () => state;
export const soughtKey = () => sought;
export const hasMore = () => Boolean(answer?.has_more);

export async function loadAbout() {
  about = await api.about();
  showAbout(about);
  return about;
}

// Whether the index has changed since it was last used.
export async function isUpdated() {
  const { generation } = about ?? {};
  return (await loadAbout()).generation !== generation;
}

// Ask for as many results as the state shows; an update in between starts over.
async function ask(wanted, signal) {
  const found = [];
  let last = null, isOther = false;
  do {
    const next = await api.search(address.body(wanted, Math.min(MOST, wanted.k - found.length), found.length), signal);
    isOther = last !== null && next.generation !== last.generation;
    if (isOther) found.length = 0;
    else found.push(...next.results);
    last = next;
  } while ((isOther || last.has_more) && found.length < wanted.k);
  return { ...last, results: found };
}

async function noteGeneration() {
  if (answer.generation === about.generation) return setNotice();
  await loadAbout();
  setNotice(UPDATED);
}

function showState() {
  const { length } = shownResults();
  setStatus(length ? summary(state, answer, length) : `Nothing found · ${summary(state, answer, 0)}`);
  setWarnings(answer.warnings);
  $("tools").hidden = !length;
  $("show-more").hidden = !answer.has_more;
}

function report(error, retry) {
  if (error instanceof api.Cancelled) return;
  const older = shownResults().length ? " The results below are those of the search before." : "";
  setStatus("");
  // 4xx: the same request would fail again
  setProblem(error.message + older, error.status >= 400 && error.status < 500 && error.status !== 429 ? null : retry);
}

// Search; what was shown stays until the answer is there, and where there is none. Returns whether there is one.
export async function search(wanted) {
  running?.abort();
  const own = (running = new AbortController());
  sought = address.key(wanted);
  continuing = null;
  setProblem();
  setNotice();
  setStatus("Searching …");
  setBusy(true);
  document.body.classList.remove("start");
  try {
    answer = await ask(wanted, own.signal);
    state = wanted;
    showResults(answer.results, state.text);
    updateRecall(state.text.trim(), answer);
    showState();
    remember(address.key(state), address.describe(state));
    await noteGeneration();
    return true;
  } catch (error) {
    report(error, () => search(wanted));
    if (running === own) sought = null;
    return false;
  } finally {
    if (running === own) setBusy(false);
  }
}

// Before the first search, and after going back to there.
export function showNothing() {
  running?.abort();
  document.body.classList.add("start");
  [state, answer, sought] = [null, null, null];
  showResults([], "");
  for (const said of [setStatus, setProblem, setNotice]) said("");
  setWarnings([]);
  for (const id of ["tools", "show-more", "recall"]) $(id).hidden = true;
}

async function next() {
  const size = address.STEP, own = running;
  setBusy(true);
  try {
    const more = await api.search(address.body(state, size, shownResults().length), own.signal);
    const k = shownResults().length + size;
    if (more.generation !== answer.generation) return await search({ ...state, k });
    answer = more;
    state = { ...state, k: shownResults().length + more.results.length };
    showResults(more.results, state.text, { after: true });
    showState();
    setProblem();
    return true;
  } catch (error) {
    if (!(error instanceof api.Cancelled)) setProblem(error.message, null);
    return false;
  } finally {
    if (running === own) {
      setBusy(false);
      continuing = null;
    }
  }
}

// Show the results that follow; returns whether there are any.
export async function continueSearch() {
  if (!hasMore()) return false;
  continuing ??= next();
  return continuing;
}
