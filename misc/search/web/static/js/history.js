// The latest searches, kept in this browser.

import { $, element } from "./dom.js";

const NAME = "searches", MOST = 50;

// A browser may forbid storage, and another page of this address may have left anything in it.
function load() {
  try {
    const found = JSON.parse(localStorage.getItem(NAME));
    return Array.isArray(found) ? found.filter(({ query, label, at }) => query && label && at) : [];
  } catch {
    return [];
  }
}

function store(searches) {
  try {
    localStorage.setItem(NAME, JSON.stringify(searches));
  } catch {
    // the page works without
  }
}

export function remember(query, label) {
  const others = load().filter((search) => search.query !== query);
  store([{ query, label, at: Date.now() }, ...others].slice(0, MOST));
}

function line({ query, label, at }, onChoose) {
  const link = element("a", { href: `./${query}` }, element("bdi", { textContent: label }));
  link.onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // another tab or window
    event.preventDefault();
    $("history").hidePopover();
    onChoose(query);
  };
  const time = element("time", { textContent: new Date(at).toLocaleString([], { dateStyle: "medium", timeStyle: "short" }) });
  return element("li", {}, link, time);
}

function render(onChoose) {
  const searches = load();
  $("searches").replaceChildren(...searches.map((search) => line(search, onChoose)));
  $("no-searches").hidden = searches.length > 0;
  $("clear-history").hidden = !searches.length;
}

export function connectHistory(onChoose) {
  $("history").addEventListener("beforetoggle", () => render(onChoose));
  $("clear-history").onclick = () => {
    store([]);
    render(onChoose);
    $("no-searches").tabIndex = -1;
    $("no-searches").focus();
  };
}
