// "Where?": an image overlaid with the regions that its score depends on.

import * as api from "./api.js";
import { isPressed, setPressed } from "./dom.js";

// Show the overlay, or the plain image again. Raises a Failure.
export async function toggleOverlay(button, image, id, text, plain, crop = 0) {
  if (isPressed(button)) {
    setPressed(button, false);
    image.src = plain;
    return;
  }
  setPressed(button, true);
  button.setAttribute("aria-busy", "true");
  try {
    const overlay = URL.createObjectURL(await api.explain(id, text, crop));
    if (!isPressed(button) || image.dataset.id !== String(id)) return; // the user went on
    image.addEventListener("load", () => URL.revokeObjectURL(overlay), { once: true });
    image.src = overlay;
  } catch (error) {
    setPressed(button, false);
    throw error;
  } finally {
    button.removeAttribute("aria-busy");
  }
}
