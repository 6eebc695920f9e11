// The page: its address is the search, and every change of the search is a change of the address.

import * as address from "./address.js";
import * as api from "./api.js";
import { $, element } from "./dom.js";
import { connectFilters, offerFolders, readFilters, showActive, showFilters } from "./filters.js";
import { connectHistory } from "./history.js";
import { connectKeys, focusCard, setCurrent } from "./keys.js";
import { connectLogin } from "./login.js";
import { connectParts, queryParts, showParts } from "./parts.js";
import { connectPhotos } from "./photos.js";
import { cardOf, resultOf, shownResults } from "./results.js";
import { continueSearch, hasMore, isUpdated, loadAbout, search, showNothing, shownState, soughtKey } from "./search.js";
import * as selection from "./selection.js";
import { setNotice, setProblem } from "./status.js";
import { connectViewer, hideViewer, showViewer, viewedId } from "./viewer.js";

const HASH = /^#image-(\d+)(?:\/(scene|video))?$/; // the opened image, and how it is shown

const formState = () => address.empty({ text: $("text").value, without: $("without").value, ...queryParts(), ...readFilters() });

function showForm(state) {
  $("text").value = state.text;
  $("without").value = state.without;
  showParts(state);
  showFilters(state);
  showActive(state, (removed) => go({ ...formState(), ...removed }));
}

function titleOf(state) {
  const said = address.describe(state);
  return said ? `${said} – Person search` : "Person search";
}

// Go to a search: it becomes the address of the page.
async function go(state) {
  if (!address.isQuery(state)) return setProblem("Describe a person first, or add a photo.");
  const query = address.write({ ...state, k: address.STEP });
  if (query !== location.search || location.hash) history.pushState({}, "", query);
  return arrive({ isNew: true });
}

// Show what the address says; returns whether there are new results.
async function arrive({ isNew = false, scroll = 0 } = {}) {
  const state = address.read(location.search);
  document.title = titleOf(state);
  if (address.key(state) === soughtKey() && !isNew) return followHash();
  showForm(state);
  hideViewer();
  if (!address.isQuery(state)) return showNothing();
  if (!(await search(state))) return false;
  setCurrent($("results").firstElementChild);
  watchEnd();
  scrollTo({ top: scroll });
  followHash();
  return true;
}

// The large view

function followHash() {
  const [, number, view = "person"] = HASH.exec(location.hash) ?? [];
  const id = Number(number);
  const result = resultOf(id);
  if (!result) {
    const left = resultOf(viewedId());
    hideViewer();
    if (left) focusCard(cardOf(left));
    if (location.hash) setNotice("The image that the address names is not among these results.");
    return;
  }
  const all = shownResults(), at = all.indexOf(result), { text, more, less } = shownState();
  const isLast = at === all.length - 1 && !hasMore();
  showViewer({ result, id, view, text, feedback: { more, less }, isFirst: at === 0, isLast, ...history.state });
}

function open(id, to) {
  history.pushState({ isOpened: true, to }, "", `${location.search}#image-${id}`);
  followHash();
}

function exchange(id) {
  const [, , view] = HASH.exec(location.hash) ?? [];
  history.replaceState({ isOpened: history.state?.isOpened }, "", `${location.search}#image-${id}${view ? `/${view}` : ""}`);
  followHash();
}

function noteView(view) {
  const end = view === "person" ? "" : `/${view}`;
  history.replaceState(history.state, "", `${location.search}#image-${viewedId()}${end}`);
}

function close() {
  if (history.state?.isOpened) return history.back();
  history.replaceState({}, "", location.pathname + location.search);
  followHash();
}

async function step(by) {
  const id = viewedId(), at = shownResults().indexOf(resultOf(id)) + by;
  if (at >= shownResults().length) await more();
  if (viewedId() === id && shownResults()[at]) exchange(shownResults()[at].id); // else the user went on
}

// What leads to another search

async function similar(id) {
  const { folder, pattern, since, until, hours, minSize, maxSize, group, perFile } = shownState();
  const filters = { folder, pattern, since, until, hours, minSize, maxSize, group, perFile };
  if (await go(address.empty({ images: [{ id, weight: 1 }], ...filters }))) focusCard($("results").firstElementChild);
}

// Add images to those that results should be nearer to ("more") or further from ("less"), or take them away.
function feedback(kind, ids) {
  const state = { ...formState(), text: shownState().text }, other = { more: "less", less: "more" }[kind];
  const areGiven = ids.every((id) => state[kind].includes(id));
  const rest = state[kind].filter((id) => !ids.includes(id));
  state[other] = state[other].filter((id) => !ids.includes(id));
  return go({ ...state, [kind]: areGiven ? rest : [...rest, ...ids] });
}

// More results

async function more() {
  if (!(await continueSearch())) return false;
  history.replaceState(history.state, "", address.write(shownState()) + location.hash);
  watchEnd();
  return true;
}

const end = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && more(), { rootMargin: "400px" });

function watchEnd() {
  end.disconnect();
  if (hasMore()) end.observe($("show-more"));
}

async function showMore(event) {
  const before = shownResults().length, isKey = event.detail === 0;
  if ((await more()) && isKey) focusCard($("results").children[before]);
}

// The controls

async function saved(ids, kind) {
  try {
    await selection.download(ids, kind, address.body(shownState(), 1, 0));
  } catch (error) {
    setProblem(error.message);
  }
}

function connectForm() {
  const submit = () => go(formState());
  $("search").onsubmit = (event) => {
    event.preventDefault();
    submit();
  };
  $("text").onkeydown = (event) => {
    // While an input method composes text, Enter selects a candidate.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    submit();
  };
  const changed = () => shownState() && address.isQuery(formState()) && $("search").reportValidity() && submit();
  $("filters").addEventListener("change", changed);
  connectParts(() => (address.isQuery(formState()) ? submit() : showParts({ ...queryParts(), text: $("text").value })));
  connectPhotos(
    (images) => go({ ...formState(), images: [...queryParts().images, ...images] }),
    (error) => setProblem(error.message),
  );
}

function connectResults() {
  const results = $("results");
  results.addEventListener("open", ({ detail }) => open(detail.result.id, detail.to));
  results.addEventListener("similar", ({ detail }) => similar(detail.id));
  results.addEventListener("failed", ({ detail }) => setProblem(detail.message));
  results.addEventListener("click", (event) => {
    if (!event.target.matches(".pick input")) return;
    const at = [...results.children].indexOf(event.target.closest("li"));
    selection.pick(shownResults(), at, event.target.checked, event.shiftKey);
  });
  document.addEventListener("selected", () => selection.applySelection(results.children, shownResults()));
  $("show-more").onclick = showMore;
  $("csv-all").onclick = () => saved(shownResults().map(({ id }) => id), "csv");
  $("select-all").onclick = () => shownResults().forEach(({ id }) => selection.toggleSelected(id, true));
  $("csv").onclick = () => saved(selection.selectedIds(), "csv");
  $("crops").onclick = () => saved(selection.selectedIds(), "crops");
  $("zip").onclick = () => saved(selection.selectedIds(), "zip");
  $("clear-selection").onclick = selection.clearSelection;
  for (const kind of ["more", "less"]) {
    $(`${kind}-selected`).onclick = () => {
      const ids = selection.selectedIds();
      selection.clearSelection();
      feedback(kind, ids);
    };
  }
}

function connectWindow() {
  let timer = 0;
  history.scrollRestoration = "manual"; // the results come later than the page
  addEventListener("scroll", () => {
    clearTimeout(timer);
    timer = setTimeout(() => history.replaceState({ ...history.state, scroll: scrollY }, ""), 200);
  });
  addEventListener("popstate", ({ state }) => arrive({ scroll: state?.scroll }));
  document.addEventListener("visibilitychange", async () => {
    if (document.hidden || !shownState()) return;
    const isChanged = await isUpdated().catch(() => false);
    if (isChanged) setNotice("The index was updated.", () => arrive({ isNew: true, scroll: scrollY }));
  });
}

function offerExamples(examples) {
  const buttons = examples.map((textContent) => {
    const button = element("button", { type: "button", title: textContent, dir: "auto", textContent });
    button.onclick = () => go({ ...formState(), images: [], text: textContent });
    return button;
  });
  $("examples").replaceChildren(...buttons);
}

async function start() {
  connectLogin();
  connectForm();
  connectFilters();
  connectResults();
  connectKeys();
  connectViewer({ open: exchange, close, step, similar, feedback, noteView });
  connectHistory((query) => {
    history.pushState({}, "", query);
    arrive({ isNew: true });
  });
  connectWindow();
  showForm(address.read(location.search));
  try {
    const about = await loadAbout();
    offerFolders(about.folders, about.has_times);
    for (const part of document.querySelectorAll(".of-people")) part.hidden = !about.has_people;
    offerExamples(about.examples);
    $("logout").hidden = !about.protected;
    await arrive({ scroll: history.state?.scroll });
  } catch (error) {
    setProblem(error.message, () => location.reload());
  }
}

start();
