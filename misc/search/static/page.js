"use strict";
// The page asks the server for a ranking (POST search), thumbnails (image/ROW) and overlays (POST explain/ROW).
// File names and sentences are shown with textContent alone: whatever they hold stays text.

const $ = (id) => document.getElementById(id);
const firstRight = new Map(); // annotated sentence -> rank of its first right image, Infinity beyond those ranked
let like = null; // {row, name} of the image whose like is searched for
let answer = null; // of the latest search
let asked = null; // what it was for
let ticket = 0; // a late answer to an earlier search is dropped

async function post(address, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(address, { method: "POST", headers, body: JSON.stringify(body) });
  if (response.ok) return response;
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  throw new Error(isJson ? (await response.json()).error : `the server answered ${response.status}`);
}

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

function setLike(image) {
  like = image;
  $("like").hidden = !image;
  if (image) {
    $("like-image").src = `image/${image.row}`;
    $("like-name").textContent = image.name;
  }
}

// What the form says, as the history keeps it.
function form() {
  return { text: $("text").value, without: $("without").value, like, k: $("k").valueAsNumber };
}

function fill(state) {
  $("text").value = state.text;
  $("without").value = state.without;
  $("k").value = state.k;
  setLike(state.like);
}

async function search({ remember = true } = {}) {
  if (!$("search").reportValidity()) return;
  const mine = ++ticket, state = form();
  if (remember) history.pushState(state, "");
  $("results").setAttribute("aria-busy", "true");
  const body = {
    text: state.text, row: state.like?.row ?? null, k: state.k,
    without: state.without.split(/[,，、]/).filter((part) => part.trim()),
  };
  try {
    const found = await (await post("search", body)).json();
    if (mine !== ticket) return;
    [answer, asked] = [found, state];
    count(state, found);
    show();
  } catch (error) {
    if (mine !== ticket) return;
    answer = null;
    show();
    say(error instanceof TypeError ? "The server does not answer: is it still running?" : error.message, true);
  } finally {
    if (mine === ticket) $("results").removeAttribute("aria-busy");
  }
}

// The running R@k of the annotated sentences asked so far, each once.
function count(state, found) {
  if (!("first_right" in found)) return;
  firstRight.set(state.text, found.first_right ?? Infinity);
  const ranks = [...firstRight.values()];
  const shares = [1, 5, 10].map(
    (k) => `R@${k} ${((100 * ranks.filter((rank) => rank <= k).length) / ranks.length).toFixed(1)} %`,
  );
  $("recall").textContent = `${ranks.length} annotated sentence${ranks.length > 1 ? "s" : ""}: ${shares.join(" · ")}`;
  $("recall").hidden = false;
}

// Those at or above the threshold: it filters what was found, at once.
function shown() {
  const least = $("least").valueAsNumber;
  return (answer?.results ?? []).filter((result) => !(result.score < least));
}

function show() {
  const results = shown();
  $("results").replaceChildren(...results.map(card));
  $("csv").hidden = !results.length;
  if (answer) say(`${results.length} of ${answer.total} images, ${Math.round(1000 * answer.seconds)} ms`);
}

function card(result) {
  const item = $("card").content.cloneNode(true).firstElementChild;
  const [button, image, where] = [".image", "img", ".where"].map((name) => item.querySelector(name));
  const plain = `image/${result.row}`, { text } = asked;
  button.setAttribute("aria-label", `Rank ${result.rank}, score ${result.score.toFixed(3)}: find people like this`);
  button.title = result.image;
  button.onclick = () => findLike(result);
  image.src = plain;
  image.onerror = () => {
    image.hidden = where.hidden = true;
    item.querySelector(".gone").hidden = false;
    item.querySelector(".gone").textContent = "This image cannot be read any more";
  };
  item.querySelector(".rank").textContent = result.rank;
  item.querySelector(".score").textContent = result.score.toFixed(3);
  item.querySelector(".path").textContent = item.querySelector(".path").title = result.image;
  if (result.right !== null) {
    item.className = result.right ? "right" : "wrong";
    const mark = item.querySelector(".mark");
    mark.hidden = false;
    mark.textContent = result.right ? "✓" : "✕";
    mark.setAttribute("aria-label", result.right ? "the right person" : "another person");
  }
  where.hidden = !text.trim();
  where.setAttribute("aria-label", `Where the model looked in image ${result.rank}`);
  where.onclick = () => toggleOverlay(where, image, result.row, text);
  return item;
}

async function toggleOverlay(where, image, row, text) {
  const isOn = where.getAttribute("aria-pressed") === "true";
  if (isOn) {
    image.src = `image/${row}`;
  } else {
    try {
      const overlay = URL.createObjectURL(await (await post(`explain/${row}`, { text })).blob());
      image.addEventListener("load", () => URL.revokeObjectURL(overlay), { once: true });
      image.src = overlay;
    } catch (error) {
      say(error.message, true);
      return;
    }
  }
  where.setAttribute("aria-pressed", String(!isOn));
}

function findLike(result) {
  setLike({ row: result.row, name: result.image });
  $("text").value = $("without").value = "";
  scrollTo({ top: 0 });
  search().then(() => $("results").querySelector(".image")?.focus({ preventScroll: true }));
}

function download() {
  const { text, like, without } = asked;
  const query = [text, like && `[${like.name}]`].filter(Boolean).join(" + ") + (without && `, without ${without}`);
  const quoted = (value) => `"${String(value ?? "").replaceAll('"', '""')}"`;
  const results = shown();
  const columns = ["query", "rank", "score", "image"];
  if (results.some(({ right }) => right !== null)) columns.push("right");
  const rows = results.map((result) => columns.map((name) => quoted({ query, ...result }[name])).join(","));
  const link = document.createElement("a");
  // The mark at the front tells spreadsheets that it is UTF-8.
  link.href = URL.createObjectURL(new Blob(["\ufeff", [columns.join(","), ...rows, ""].join("\r\n")]));
  link.download = "results.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function onKey(event) {
  if (event.target.matches("input, textarea") || event.ctrlKey || event.altKey || event.metaKey) return;
  const items = [...$("results").children];
  const at = items.indexOf(document.activeElement.closest("#results > li"));
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  if (event.key === "/") $("text").focus();
  else if (event.key === "e" && at >= 0) items[at].querySelector(".where").click();
  else if (step && at >= 0) items[Math.min(Math.max(at + step, 0), items.length - 1)].querySelector(".image").focus();
  else return;
  event.preventDefault();
}

async function start() {
  const about = await (await fetch("about")).json();
  $("about").textContent = `${about.total.toLocaleString()} images · ${about.checkpoint}`;
  $("k").max = about.most;
  for (const example of about.examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = button.title = example;
    button.onclick = () => {
      setLike(null);
      $("text").value = example;
      search();
    };
    $("examples").append(button);
  }
}

$("search").onsubmit = (event) => {
  event.preventDefault();
  search();
};
$("text").onkeydown = (event) => {
  // While Chinese is composed, Enter chooses a word.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  search();
};
$("like-remove").onclick = () => {
  setLike(null);
  $("text").focus();
};
$("least").oninput = () => answer && show();
$("csv").onclick = download;
document.onkeydown = onKey;
onpopstate = ({ state }) => {
  if (!state) return location.reload(); // back before the first search
  fill(state);
  search({ remember: false });
};
start();
