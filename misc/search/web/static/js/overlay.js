// "Where?": an image overlaid with the regions that its score depends on.

import * as api from "./api.js";
import { isPressed, setPressed } from "./dom.js";

const latest = new WeakMap(); // button -> what it was pressed for last

// Show the overlay, or the plain image again. Raises a Failure.
export async function toggleOverlay(button, image, id, text, plain, crop = 0) {
  if (isPressed(button)) {
    setPressed(button, false);
    image.src = plain;
    return;
  }
  const own = {};
  latest.set(button, own);
  setPressed(button, true);
  button.setAttribute("aria-busy", "true");
  try {
    const overlay = URL.createObjectURL(await api.explain(id, text, crop));
    if (!isPressed(button) || latest.get(button) !== own) return; // the user went on
    image.addEventListener("load", () => URL.revokeObjectURL(overlay), { once: true });
    image.src = overlay;
  } catch (error) {
    if (latest.get(button) !== own) return;
    setPressed(button, false);
    throw error;
  } finally {
    if (latest.get(button) === own) button.removeAttribute("aria-busy");
  }
}
