// The images that the user has selected, and what can be done with them.

import * as api from "./api.js";
import { $, count, save } from "./dom.js";

const MOST = 1000; // images of one export
const selected = new Set(); // ids
let last = -1; // the card that was selected last: the start of a range

const changed = () => document.dispatchEvent(new Event("selected"));

export const isSelected = (id) => selected.has(id);
export const selectedIds = () => [...selected];

export function toggleSelected(id, isOn = !isSelected(id)) {
  if (isOn) selected.add(id);
  else selected.delete(id);
  changed();
}

export function clearSelection() {
  selected.clear();
  changed();
}

// With Shift all from the one before.
export function pick(results, at, isOn, isRange) {
  const from = isRange && last >= 0 ? Math.min(last, at) : at;
  const to = isRange && last >= 0 ? Math.max(last, at) : at;
  for (const { id } of results.slice(from, to + 1)) toggleSelected(id, isOn);
  last = at;
}

export function applySelection(cards, results) {
  results.forEach(({ id }, at) => {
    cards[at].querySelector(".pick input").checked = isSelected(id);
    cards[at].classList.toggle("selected", isSelected(id));
  });
  $("selection").hidden = !selected.size;
  $("results").classList.toggle("selecting", selected.size > 0);
  $("num-selected").textContent = selected.size ? `${selected.size} selected` : "";
}

// Download images as a table, or an archive of their files or crops; `query` is the body of their search.
export async function download(ids, kind, query) {
  if (ids.length > MOST) throw new api.Failure(`${count(ids.length, "image")} are too many for one download: select at most ${MOST}.`);
  const blob = await api.exported({ ids, as: kind, query });
  save(blob, { csv: "results.csv", zip: "images.zip", crops: "crops.zip" }[kind]);
}
