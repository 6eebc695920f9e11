// The picture of the large view: the person (or the image), the scene (the whole photo or frame, with the person
// marked), or the video.

import * as api from "./api.js";
import { $, setPressed } from "./dom.js";
import { connectPlayer, play, stop } from "./player.js";

const VIEWS = ["person", "scene", "video"];

// {id, path, crop, wanted, isPlayable, known}: `wanted` is the view, also where this image has none such;
// `known` is what is known of the person, or null; `crop` is 0, or another crop of the track.
let shown = null;
let onView = () => {};

const placeOf = ({ known, crop }) => (crop ? known.crops[crop - 1] : known);

function views() {
  const { known, isPlayable } = shown;
  const has = { person: true, scene: Boolean(known?.box), video: Boolean(known?.video && isPlayable) };
  return VIEWS.filter((view) => has[view]);
}

// What is shown: the wanted view, or else the most similar one.
function current() {
  const possible = views();
  return possible.findLast((view) => VIEWS.indexOf(view) <= VIEWS.indexOf(shown.wanted));
}

function showPerson() {
  const image = $("viewer-image");
  image.dataset.id = shown.id;
  image.src = api.view(shown.id, shown.crop);
  image.alt = shown.path;
}

// The size of the scene may be unknown: then the person is not marked.
function markPerson() {
  const { scene } = shown.known, place = placeOf(shown), mark = $("scene-box");
  mark.hidden = !scene;
  if (!scene) return;
  const [width, height] = scene, [left, top, across, down] = place.box;
  const shares = { left: left / width, top: top / height, width: across / width, height: down / height };
  for (const [name, share] of Object.entries(shares)) mark.style[name] = `${100 * share}%`;
  mark.setAttribute("aria-label", `The person: ${across} × ${down} pixels, ${left} from the left and ${top} from the top of ${width} × ${height}`);
}

function showScene() {
  const image = $("scene-image");
  $("scene-box").hidden = true; // until the picture is there
  image.src = api.scene(shown.id, shown.crop);
  image.alt = `The whole ${shown.known.video ? "frame" : "photo"}, ${shown.path}`;
}

function render() {
  const view = current(), possible = views(), focused = document.activeElement, { known } = shown;
  $("viewer-missing").hidden = true;
  $("views").hidden = possible.length < 2;
  for (const name of VIEWS) {
    $(`view-${name}`).hidden = !possible.includes(name);
    setPressed($(`view-${name}`), name === view);
  }
  $("view-person").textContent = known?.box ? "Person" : "Frame";
  $("view-scene").textContent = known?.video ? "Frame" : "Photo";
  $("repeat").hidden = view !== "video";
  $("viewer-image").hidden = view !== "person";
  $("scene").hidden = view !== "scene";
  $("player").hidden = view !== "video";
  $("unplayable").hidden = shown.isPlayable || shown.wanted !== "video";
  setPressed($("viewer-where"), false);
  if (view === "person") showPerson();
  if (view === "scene") showScene();
  if (view !== "video") stop();
  else play({ id: shown.id, first: known.first, last: known.last });
  // Keys would go nowhere if what had the focus is hidden.
  if (focused?.closest("#stage [hidden]")) $(possible.length > 1 ? `view-${view}` : "close-viewer").focus();
}

// Show an image, or a person of whom `known` tells more: {id, path, view, known}.
export function showStage({ id, path, view, known }) {
  shown = { id, path, wanted: view, known, crop: 0, isPlayable: true };
  $("unplayable").querySelector("a").href = api.file(id);
  render();
}

// More of what is known of the person.
export function tellStage(known) {
  const isNew = !shown.known, image = $("scene-image");
  shown.known = known;
  if (isNew) render();
  else if (current() === "scene" && image.complete && image.naturalWidth) markPerson();
}

export function hideStage() {
  shown = null;
  stop();
}

export function setView(view) {
  if (!views().includes(view)) return;
  shown.wanted = view;
  render();
  onView(view);
}

export const toggleScene = () => setView(current() === "scene" ? "person" : "scene");

export const shownCrop = () => shown.crop;

// Another crop of the track, in the view that shows it best.
export function setCrop(crop) {
  shown.crop = crop;
  if (current() === "video") setView("person");
  else render();
}

// `viewed` is told the view that the user has chosen.
export function connectStage(viewed) {
  onView = viewed;
  for (const view of VIEWS) $(`view-${view}`).onclick = () => setView(view);
  connectPlayer(() => {
    shown.isPlayable = false;
    render();
  });
  $("scene-image").onload = () => {
    const { naturalWidth, naturalHeight } = $("scene-image");
    $("scene").style.setProperty("--ratio", naturalWidth / naturalHeight);
    if (shown?.known) markPerson();
  };
  for (const name of ["viewer-image", "scene-image"]) {
    $(name).onerror = () => {
      if ($(name).closest("[hidden]")) return; // the user went on
      $("viewer-image").hidden = $("scene").hidden = true;
      $("viewer-missing").hidden = false;
    };
  }
}
