// The panel of filters, and the list of those in use.

import { $, element } from "./dom.js";

const SPANS = ["since", "until"];
const SIZES = { minSize: "min", maxSize: "max" };
const LARGEST = 100_000; // pixels: a side without a limit

function readSize(name, without) {
  const [width, height] = [$(`${name}-width`).value, $(`${name}-height`).value];
  return width || height ? `${width || without}x${height || without}` : "";
}

function readHours() {
  const [first, last] = [$("hours-first").value, $("hours-last").value];
  return first || last ? `${first || "00:00"}-${last || "23:59"}` : "";
}

export function readFilters() {
  const [since, until] = SPANS.map((name) => {
    const date = $(`${name}-date`).value;
    return date && `${date} ${$(`${name}-time`).value}`.trim();
  });
  return {
    folder: $("folder").value, pattern: $("pattern").value, since, until, min: $("min").value,
    hours: readHours(), minSize: readSize("min", 1), maxSize: readSize("max", LARGEST),
    group: $("group").checked, perFile: $("per-file").checked,
  };
}

export function showFilters(state) {
  for (const name of ["folder", "pattern", "min"]) $(name).value = state[name];
  for (const name of SPANS) {
    const [date = "", time = ""] = state[name].split(/[ T]/);
    $(`${name}-date`).value = date;
    $(`${name}-time`).value = time;
  }
  for (const [field, name] of Object.entries(SIZES)) {
    const [width = "", height = ""] = state[field].split("x");
    $(`${name}-width`).value = [1, LARGEST].includes(Number(width)) ? "" : width;
    $(`${name}-height`).value = [1, LARGEST].includes(Number(height)) ? "" : height;
  }
  const [first = "", last = ""] = (state.hours.match(/\d+:\d+/g) ?? []).map((time) => time.padStart(5, "0"));
  $("hours-first").value = first;
  $("hours-last").value = last;
  $("group").checked = state.group;
  $("per-file").checked = state.perFile;
}

function sizeInWords(size) {
  const [width, height] = size.split("x").map(Number);
  const isOpen = (side) => side === 1 || side === LARGEST;
  if (isOpen(height)) return `${width} pixels wide`;
  return isOpen(width) ? `${height} pixels high` : `${width} × ${height} pixels`;
}

const WORDS = {
  folder: (text) => `Folder ${text}`, pattern: (text) => `Name ${text}`, min: (text) => `Score at least ${text}`,
  since: (text) => `From ${text}`, until: (text) => `Until ${text}`,
  hours: (text) => `Hours ${text.replace("-", " to ")}`,
  minSize: (size) => `At least ${sizeInWords(size)}`, maxSize: (size) => `At most ${sizeInWords(size)}`,
};

// One button for each filter in use, which takes it away.
export function showActive(state, onRemove) {
  const used = Object.keys(WORDS).filter((name) => state[name]);
  const buttons = used.map((name) => {
    const text = element("bdi", { textContent: WORDS[name](state[name]) });
    const button = element("button", { type: "button", title: "Remove this filter" }, text);
    button.onclick = () => onRemove({ [name]: "" });
    button.setAttribute("aria-label", `Remove the filter: ${text.textContent}`);
    return element("li", {}, button);
  });
  $("active").hidden = !used.length;
  $("active").replaceChildren(...buttons);
  $("toggle-filters").classList.toggle("used", used.length > 0);
}

export function connectFilters() {
  $("toggle-filters").onclick = () => {
    const isOpen = $("filters").hidden;
    $("filters").hidden = !isOpen;
    $("toggle-filters").setAttribute("aria-expanded", String(isOpen));
    if (isOpen) $("folder").focus();
  };
}

export function offerFolders(folders, hasTimes) {
  $("folders").replaceChildren(...folders.map((value) => element("option", { value })));
  for (const field of document.querySelectorAll("#filters .time")) field.hidden = !hasTimes;
}
