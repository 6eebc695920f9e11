// The large view of one image. Its owner is told what the user wants by `on`: close(), step(by), similar(id),
// feedback(kind, id).

import * as api from "./api.js";
import { $, copy, count, element, fileName, folderOf, setPressed } from "./dom.js";
import { toggleOverlay } from "./overlay.js";
import { isSelected, toggleSelected } from "./selection.js";

let shown = null; // {result, id, path, text}: id and path are of the result or of one of its duplicates
let on = {};

export const viewedId = () => shown?.id ?? null;

function fact(name, value) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
}

function showFacts({ width, height, taken }, id) {
  const facts = [fact("Id", id)];
  if (width && height) facts.unshift(fact("Size", `${width} × ${height} pixels`));
  if (taken) facts.unshift(fact("Taken", taken.replace("T", " ")));
  $("facts").replaceChildren(...facts);
}

function showCopies({ result, id }) {
  const copies = [result, ...result.duplicates];
  $("copies").hidden = copies.length < 2;
  $("copies-title").textContent = `${count(result.count, "copy", "copies")} of this image`;
  const items = copies.map((one) => {
    const name = element("bdi", { textContent: fileName(one.path) });
    const folder = element("bdi", { className: "folder", textContent: folderOf(one.path) });
    const button = element("button", { type: "button", className: "quiet" }, name, " ", folder);
    if (one.id === id) button.setAttribute("aria-current", "true");
    button.onclick = () => on.open(one.id);
    return element("li", {}, button);
  });
  $("copies").querySelector("ul").replaceChildren(...items);
}

function showImage(id, path) {
  const image = $("viewer-image");
  image.hidden = false;
  $("viewer-missing").hidden = true;
  image.dataset.id = id;
  image.src = api.view(id);
  image.alt = path;
}

function showButtons({ result, id, text }, feedback) {
  setPressed($("viewer-where"), false);
  $("viewer-where").hidden = !text.trim();
  setPressed($("viewer-select"), isSelected(result));
  setPressed($("viewer-more"), feedback.more.includes(id));
  setPressed($("viewer-less"), feedback.less.includes(id));
  $("open-file").href = api.file(id, true);
  $("download-file").href = api.file(id);
  $("download-file").download = fileName(shown.path);
  $("viewer-status").textContent = "";
}

function showRank({ rank, score, right }) {
  const mark = right === true ? " · the correct person" : right === false ? " · another person" : "";
  $("viewer-rank").textContent = `Rank ${rank} · score ${score.toFixed(3)}${mark}`;
}

// Show an image of a result: {result, id, text of the query, feedback: {more, less}, isFirst, isLast}.
export function showViewer({ result, id, text, feedback, isFirst, isLast, toCopies = false }) {
  const { path } = [result, ...result.duplicates].find((one) => one.id === id);
  shown = { result, id, path, text };
  $("viewer-name").textContent = fileName(path);
  $("viewer-folder").textContent = folderOf(path);
  $("previous").disabled = isFirst;
  $("next").disabled = isLast;
  showRank(result);
  showImage(id, path);
  showFacts(result, id);
  showButtons(shown, feedback);
  showCopies(shown);
  if (!$("viewer").open) $("viewer").showModal();
  if (toCopies) $("copies").querySelector("button").focus();
}

export function hideViewer() {
  shown = null;
  if ($("viewer").open) $("viewer").close();
}

function where() {
  const { id, text } = shown;
  toggleOverlay($("viewer-where"), $("viewer-image"), id, text, api.view(id)).catch((error) => {
    $("viewer-status").textContent = error.message;
  });
}

async function copyPath() {
  await copy(shown.path);
  $("viewer-status").textContent = "Copied";
}

function select() {
  toggleSelected(shown.result);
  setPressed($("viewer-select"), isSelected(shown.result));
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const acts = { ArrowLeft: () => on.step(-1), ArrowRight: () => on.step(1), s: () => on.similar(shown.id), x: select };
  if (!$("viewer-where").hidden) acts.e = where;
  if (!acts[event.key]) return;
  event.preventDefault();
  acts[event.key]();
}

export function connectViewer(actions) {
  on = actions;
  $("viewer").addEventListener("keydown", onKey);
  $("viewer").addEventListener("close", () => shown && on.close()); // by Esc
  $("viewer").addEventListener("click", (event) => event.target === $("viewer") && on.close()); // beside it
  $("viewer-image").onerror = () => {
    $("viewer-image").hidden = true;
    $("viewer-missing").hidden = false;
  };
  $("close-viewer").onclick = () => on.close();
  $("previous").onclick = () => on.step(-1);
  $("next").onclick = () => on.step(1);
  $("viewer-where").onclick = where;
  $("viewer-select").onclick = select;
  $("copy-path").onclick = copyPath;
  $("viewer-similar").onclick = () => on.similar(shown.id);
  $("viewer-more").onclick = () => on.feedback("more", [shown.id]);
  $("viewer-less").onclick = () => on.feedback("less", [shown.id]);
}
