"use strict";
// The page requests rankings (POST search), thumbnails (image/ROW) and overlays (POST explain/ROW).
// File names and sentences are set by textContent only, so that markup in them is not interpreted.

const $ = (id) => document.getElementById(id);
const firstRight = new Map(); // annotated sentence -> rank of its first correct image, or Infinity
let queryImage = null; // {row, name}
let answer = null; // of the latest search
let answered = null; // the form state of that search
let latest = 0; // number of the latest search: late answers to earlier ones are dropped

async function post(address, body) {
  const headers = { "Content-Type": "application/json" };
  const response = await fetch(address, { method: "POST", headers, body: JSON.stringify(body) });
  if (response.ok) return response;
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  throw new Error(isJson ? (await response.json()).error : `the server answered ${response.status}`);
}

function setStatus(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function setQueryImage(image) {
  queryImage = image;
  $("query-image").hidden = !image;
  if (image) {
    $("query-thumbnail").src = `image/${image.row}`;
    $("query-name").textContent = image.name;
  }
}

// The state of the form, as it is saved in the history.
function formState() {
  return { text: $("text").value, without: $("without").value, queryImage, k: $("k").valueAsNumber };
}

function restore(state) {
  $("text").value = state.text;
  $("without").value = state.without;
  $("k").value = state.k;
  setQueryImage(state.queryImage);
}

async function search({ addToHistory = true } = {}) {
  if (!$("search").reportValidity()) return;
  const number = ++latest, state = formState();
  if (addToHistory) history.pushState(state, "");
  $("results").setAttribute("aria-busy", "true");
  const body = {
    text: state.text, row: state.queryImage?.row ?? null, k: state.k,
    without: state.without.split(/[,，、]/).filter((part) => part.trim()),
  };
  try {
    const found = await (await post("search", body)).json();
    if (number !== latest) return;
    [answer, answered] = [found, state];
    updateRecall(state, found);
    show();
  } catch (error) {
    if (number !== latest) return;
    answer = null;
    show();
    setStatus(error instanceof TypeError ? "The server does not answer: is it still running?" : error.message, true);
  } finally {
    if (number === latest) $("results").removeAttribute("aria-busy");
  }
}

// R@k over the distinct annotated sentences searched for so far.
function updateRecall(state, found) {
  if (!("first_right" in found)) return;
  firstRight.set(state.text, found.first_right ?? Infinity);
  const ranks = [...firstRight.values()];
  const shares = [1, 5, 10].map(
    (k) => `R@${k} ${((100 * ranks.filter((rank) => rank <= k).length) / ranks.length).toFixed(1)} %`,
  );
  $("recall").textContent = `${ranks.length} annotated sentence${ranks.length > 1 ? "s" : ""}: ${shares.join(" · ")}`;
  $("recall").hidden = false;
}

// The results at or above the threshold.
function shownResults() {
  const minScore = $("min-score").valueAsNumber;
  return (answer?.results ?? []).filter((result) => !(result.score < minScore));
}

function show() {
  const results = shownResults();
  $("results").replaceChildren(...results.map(card));
  $("csv").hidden = !results.length;
  if (answer) setStatus(`${results.length} of ${answer.total} images, ${Math.round(1000 * answer.seconds)} ms`);
}

function card(result) {
  const item = $("card").content.cloneNode(true).firstElementChild;
  const [button, image, toggle] = [".image", "img", ".explain"].map((name) => item.querySelector(name));
  const { text } = answered;
  button.setAttribute("aria-label", `Rank ${result.rank}, score ${result.score.toFixed(3)}: find similar people`);
  button.title = result.image;
  button.onclick = () => findSimilar(result);
  image.src = `image/${result.row}`;
  image.onerror = () => {
    image.hidden = toggle.hidden = true;
    item.querySelector(".missing").hidden = false;
    item.querySelector(".missing").textContent = "This image can no longer be read";
  };
  item.querySelector(".rank").textContent = result.rank;
  item.querySelector(".score").textContent = result.score.toFixed(3);
  item.querySelector(".path").textContent = item.querySelector(".path").title = result.image;
  if (result.right !== null) {
    item.className = result.right ? "right" : "wrong";
    const mark = item.querySelector(".mark");
    mark.hidden = false;
    mark.textContent = result.right ? "✓" : "✕";
    mark.setAttribute("aria-label", result.right ? "the correct person" : "another person");
  }
  toggle.hidden = !text.trim();
  toggle.setAttribute("aria-label", `Regions of image ${result.rank} that the score depends on`);
  toggle.onclick = () => toggleOverlay(toggle, image, result.row, text);
  return item;
}

async function toggleOverlay(toggle, image, row, text) {
  const isOn = toggle.getAttribute("aria-pressed") === "true";
  if (isOn) {
    image.src = `image/${row}`;
  } else {
    try {
      const overlay = URL.createObjectURL(await (await post(`explain/${row}`, { text })).blob());
      image.addEventListener("load", () => URL.revokeObjectURL(overlay), { once: true });
      image.src = overlay;
    } catch (error) {
      setStatus(error.message, true);
      return;
    }
  }
  toggle.setAttribute("aria-pressed", String(!isOn));
}

function findSimilar(result) {
  setQueryImage({ row: result.row, name: result.image });
  $("text").value = $("without").value = "";
  scrollTo({ top: 0 });
  search().then(() => $("results").querySelector(".image")?.focus({ preventScroll: true }));
}

function withoutFormula(value) {
  // As misc/process/csv_file.py: a spreadsheet would run such a text; numbers stay as they are.
  const isFormula = /^(?:[\s'"\u200b]*[=+\-@＝＋－＠]|[\t\r\n])/.test(value) && !/^[+-]?\d+(\.\d+)?(e[+-]?\d+)?$/i.test(value);
  return typeof value === "string" && isFormula ? `'${value}` : String(value);
}

function download() {
  const { text, queryImage, without } = answered;
  const query = [text, queryImage && `[${queryImage.name}]`].filter(Boolean).join(" + ") + (without && `, without ${without}`);
  const quoted = (value) => `"${withoutFormula(value ?? "").replaceAll('"', '""')}"`;
  const results = shownResults();
  const columns = ["query", "rank", "score", "image"];
  if (results.some(({ right }) => right !== null)) columns.push("right");
  const rows = results.map((result) => columns.map((name) => quoted({ query, ...result }[name])).join(","));
  const link = document.createElement("a");
  // Spreadsheets detect UTF-8 by the byte order mark.
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
  else if (event.key === "e" && at >= 0) items[at].querySelector(".explain").click();
  else if (step && at >= 0) items[Math.min(Math.max(at + step, 0), items.length - 1)].querySelector(".image").focus();
  else return;
  event.preventDefault();
}

async function start() {
  const about = await (await fetch("about")).json();
  $("about").textContent = `${about.total.toLocaleString()} images · ${about.checkpoint}`;
  $("k").max = about.max_results;
  for (const example of about.examples) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = button.title = example;
    button.onclick = () => {
      setQueryImage(null);
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
  // While an input method composes text, Enter selects a candidate.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  search();
};
$("query-remove").onclick = () => {
  setQueryImage(null);
  $("text").focus();
};
$("min-score").oninput = () => answer && show();
$("csv").onclick = download;
document.onkeydown = onKey;
onpopstate = ({ state }) => {
  if (!state) return location.reload(); // back before the first search
  restore(state);
  search({ addToHistory: false });
};
start();
