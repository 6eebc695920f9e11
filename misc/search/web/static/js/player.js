// The video of a person: it starts where the person comes, and stops there where the person goes, or repeats that.

import * as api from "./api.js";
import { $, isPressed, setPressed } from "./dom.js";

const SHORTEST = 1; // second that is played of a person who is seen in one frame

let track = null; // {id, first, last}: what is played
let isWithin = false; // whether the player is before the end of it; the user may have gone on
let onFailure = () => {};

// Play a person of a video from the start: {id, first, last}; without times all of it.
export function play({ id, first, last }) {
  const isLoaded = track?.id === id;
  track = { id, first: first ?? 0, last: last === null ? Infinity : Math.max(last, first + SHORTEST) };
  if (isLoaded) begin();
  else $("player").src = api.video(id);
}

// Stop, and fetch no more of the video.
export function stop() {
  if (!track) return;
  track = null;
  $("player").pause();
  $("player").removeAttribute("src");
  $("player").load();
}

function begin() {
  $("player").currentTime = track.first;
  $("player").play().catch(() => {}); // some browsers wait until the user plays it
}

function atTime() {
  if (!track || !isWithin || $("player").currentTime < track.last) return;
  if (isPressed($("repeat"))) $("player").currentTime = track.first;
  else {
    $("player").pause();
    $("player").currentTime = track.last; // the event comes some frames late
  }
}

// `failed` is called where the browser cannot play a video.
export function connectPlayer(failed) {
  onFailure = failed;
  const player = $("player");
  player.onloadedmetadata = () => track && (player.videoWidth ? begin() : onFailure()); // it may know the sound only
  player.onerror = () => track && onFailure();
  player.ontimeupdate = atTime;
  for (const event of ["seeked", "play"]) player.addEventListener(event, () => (isWithin = track && player.currentTime < track.last));
  $("repeat").onclick = () => {
    setPressed($("repeat"), !isPressed($("repeat")));
    if (isPressed($("repeat")) && player.paused) begin();
  };
}
