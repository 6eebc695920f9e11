// The large view of one image. Its owner is told what the user wants by `on`: close(), step(by), similar(id),
// feedback(kind, id), noteView(view).

import * as api from "./api.js";
import { $, copy, count, element, fileName, folderOf, setPressed, span } from "./dom.js";
import { toggleOverlay } from "./overlay.js";
import { sharing } from "./results.js";
import { isSelected, toggleSelected } from "./selection.js";
import { connectStage, hideStage, setCrop, setView, showStage, shownCrop, tellStage, toggleScene } from "./stage.js";

let shown = null; // {result, id, path, file, text}: id, path and file are of the result or of what shares its place
let on = {};

export const viewedId = () => shown?.id ?? null;

function fact(name, value) {
  return element("div", {}, element("dt", { textContent: name }), element("dd", { textContent: value }));
}

function showFacts({ width, height, taken, detection, time, ...track }, id) {
  const facts = [
    taken && fact("Taken", taken.replace("T", " ")),
    span(track) && fact("Seen", span(track)),
    typeof time === "number" && fact("Picture", `at ${time.toFixed(1)} seconds`),
    width && height && fact("Size", `${width} × ${height} pixels`),
    typeof detection === "number" && fact("Detector", detection.toFixed(2)),
    fact("Id", id),
  ];
  $("facts").replaceChildren(...facts.filter(Boolean));
}

// A row of small pictures, each a button: {source, name, isCurrent, act} of each.
function showPictures(section, pictures) {
  const list = $(section).querySelector("ul"), focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  $(section).hidden = !pictures.length;
  const items = pictures.map(({ source, name, isCurrent, act }) => {
    const button = element("button", { type: "button", title: name }, element("img", { src: source, alt: name, loading: "lazy" }));
    if (isCurrent) button.setAttribute("aria-current", "true");
    button.onclick = act;
    return element("li", {}, button);
  });
  list.replaceChildren(...items);
  list.children[focused]?.querySelector("button").focus();
}

// The crops of a track.
function showTrack(known) {
  const { id } = shown, crops = known.crops.length ? [known, ...known.crops] : [];
  showPictures("track", crops.map(({ time }, crop) => ({
    source: api.thumbnail(id, crop), name: `At ${time.toFixed(1)} seconds`, isCurrent: crop === shownCrop(),
    act: () => {
      setCrop(crop);
      showTrack(known);
    },
  })));
}

function showOthers({ result, id }) {
  const people = result.num_others ? [result, ...result.others] : [];
  $("others-title").textContent = `Found in this ${result.video ? "video" : "photo"}`;
  showPictures("others", people.map((one, at) => ({
    source: api.thumbnail(one.id), name: `${at + 1} of ${people.length}`, isCurrent: one.id === id, act: () => on.open(one.id),
  })));
}

function showCopies({ result, id }) {
  const copies = [result, ...result.duplicates];
  $("copies").hidden = copies.length < 2;
  $("copies-title").textContent = `${count(result.count, "copy", "copies")} of this image`;
  const items = copies.map((one) => {
    const name = element("bdi", { textContent: fileName(one.file ?? one.path) });
    const folder = element("bdi", { className: "folder", textContent: folderOf(one.file ?? one.path) });
    const button = element("button", { type: "button", className: "quiet" }, name, " ", folder);
    if (one.id === id) button.setAttribute("aria-current", "true");
    button.onclick = () => on.open(one.id);
    return element("li", {}, button);
  });
  $("copies").querySelector("ul").replaceChildren(...items);
}

function showButtons({ id, path, file, text }, feedback) {
  $("viewer-where").hidden = !text.trim();
  setPressed($("viewer-select"), isSelected(id));
  setPressed($("viewer-more"), feedback.more.includes(id));
  setPressed($("viewer-less"), feedback.less.includes(id));
  $("open-file").href = api.file(id, true);
  $("download-file").href = api.file(id);
  $("download-file").download = fileName(file ?? path);
  $("viewer-status").textContent = "";
}

function showRank({ rank, score, right }) {
  const mark = right === true ? " · the correct person" : right === false ? " · another person" : "";
  $("viewer-rank").textContent = `Rank ${rank} · score ${score.toFixed(3)}${mark}`;
}

// What the results do not tell of a person.
async function showDetails({ id }) {
  try {
    const known = await api.details(id);
    if (shown?.id !== id) return; // the user went on
    showFacts(known, id);
    if (known.video) $("open-file").href = api.video(id);
    tellStage(known);
    showTrack(known);
  } catch (error) {
    if (shown?.id === id) $("viewer-status").textContent = error.message;
  }
}

// Show an image of a result: {result, id, view, text of the query, feedback: {more, less}, isFirst, isLast}.
export function showViewer({ result, id, view, text, feedback, isFirst, isLast, to }) {
  const { path, file } = sharing(result).find((one) => one.id === id);
  const isKnown = !file || id === result.id; // else it is another person
  shown = { result, id, path, file, text };
  $("viewer-name").textContent = fileName(file ?? path);
  $("viewer-folder").textContent = folderOf(file ?? path);
  $("previous").disabled = isFirst;
  $("next").disabled = isLast;
  showRank(result);
  showFacts(isKnown ? result : {}, id);
  showButtons(shown, feedback);
  showStage({ id, path: file ?? path, view, known: file && isKnown ? { ...result, scene: null, crops: [] } : null });
  showCopies(shown);
  showOthers(shown);
  $("track").hidden = true;
  if (file) showDetails(shown);
  if (!$("viewer").open) $("viewer").showModal();
  if (to) $(to).querySelector("button")?.focus();
  if (!$("viewer").contains(document.activeElement)) $("close-viewer").focus(); // what had it is no longer there
}

export function hideViewer() {
  shown = null;
  hideStage();
  if ($("viewer").open) $("viewer").close();
}

function where() {
  if ($("viewer-image").hidden) setView("person");
  const { id, text } = shown, crop = shownCrop();
  toggleOverlay($("viewer-where"), $("viewer-image"), id, text, api.view(id, crop), crop).catch((error) => {
    $("viewer-status").textContent = error.message;
  });
}

async function copyPath() {
  await copy(shown.path);
  $("viewer-status").textContent = "Copied";
}

function select() {
  toggleSelected(shown.id);
  setPressed($("viewer-select"), isSelected(shown.id));
}

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  if (event.target === $("player") && event.key.startsWith("Arrow")) return; // they seek
  const acts = {
    ArrowLeft: () => on.step(-1), ArrowRight: () => on.step(1), s: () => on.similar(shown.id), x: select,
    w: toggleScene, v: () => setView("video"),
  };
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
  connectStage(on.noteView);
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
