// The images of the query: those to be similar to, with their weights, and those that results should be
// nearer to or further from.

import * as api from "./api.js";
import { $, fromTemplate } from "./dom.js";

let parts = { images: [], more: [], less: [] };
let onChange = () => {};

export const queryParts = () => parts;

// The server keeps the features of an uploaded photo only: its small picture stays in this tab.
const pictureOf = ({ id, upload }) => (upload ? sessionStorage.getItem(`upload ${upload}`) : api.thumbnail(id));

const KINDS = {
  images: { word: "", name: "Similar to this image" },
  more: { word: "More of", name: "More of this image" },
  less: { word: "Less of", name: "Less of this image" },
};

function chip(kind, part, hasWeight) {
  const item = fromTemplate("part"), [picture, icon] = [item.querySelector("img"), item.querySelector("svg")];
  const source = pictureOf(part);
  item.dataset.kind = kind;
  picture.hidden = !source;
  icon.toggleAttribute("hidden", Boolean(source));
  if (source) picture.src = source;
  picture.alt = part.upload ? "Your photo" : `Image ${part.id}`;
  item.querySelector(".kind").textContent = KINDS[kind].word;
  item.title = KINDS[kind].name;
  const remove = item.querySelector("button");
  remove.setAttribute("aria-label", `Remove: ${KINDS[kind].name.toLowerCase()}`);
  remove.onclick = () => {
    change({ ...parts, [kind]: parts[kind].filter((other) => other !== part && other !== part.id) });
    $("text").focus();
  };
  const weight = item.querySelector(".weight");
  weight.hidden = !hasWeight;
  if (hasWeight) connectWeight(weight, part);
  return item;
}

function connectWeight(label, part) {
  const [slider, shown] = [label.querySelector("input"), label.querySelector("output")];
  slider.value = part.weight;
  const show = () => (shown.textContent = Number(slider.value).toFixed(1));
  show();
  slider.oninput = show;
  slider.onchange = () => {
    change({ ...parts, images: parts.images.map((other) => (other === part ? { ...part, weight: Number(slider.value) } : other)) });
  };
}

function change(changed) {
  parts = changed;
  onChange();
}

// A single image has nothing to be weighed against.
export function showParts({ images, more, less, text }) {
  parts = { images, more, less };
  const hasWeight = images.length > 1 || Boolean(text.trim());
  $("parts").hidden = !(images.length || more.length || less.length);
  $("parts").replaceChildren(
    ...images.map((part) => chip("images", part, hasWeight)),
    ...more.map((id) => chip("more", { id }, false)),
    ...less.map((id) => chip("less", { id }, false)),
  );
}

export function connectParts(changed) {
  onChange = changed;
}
