// Photos that the user chooses, drops or pastes.

import * as api from "./api.js";
import { $ } from "./dom.js";

const MAX_BYTES = 20_000_000, SMALL = 96; // pixels

// A small picture of the photo, as a data: address; none where the browser cannot decode it (HEIC).
async function smallPicture(file) {
  try {
    const image = await createImageBitmap(file, { resizeHeight: SMALL, resizeQuality: "medium" });
    const canvas = new OffscreenCanvas(image.width, image.height);
    canvas.getContext("2d").drawImage(image, 0, 0);
    const blob = await canvas.convertToBlob({ type: "image/jpeg", quality: 0.8 });
    return `data:image/jpeg;base64,${btoa(String.fromCharCode(...new Uint8Array(await blob.arrayBuffer())))}`;
  } catch {
    return null;
  }
}

async function uploaded(file) {
  if (file.size > MAX_BYTES) throw new api.Failure(`${file.name} has more than ${MAX_BYTES / 1e6} MB: choose a smaller photo.`);
  const [picture, { upload }] = await Promise.all([smallPicture(file), api.upload(file)]);
  try {
    if (picture) sessionStorage.setItem(`upload ${upload}`, picture);
  } catch {
    // storage is full or forbidden: the photo is shown as an icon
  }
  return { upload, weight: 1 };
}

const imagesIn = (data) => [...(data?.files ?? [])].filter((file) => file.type.startsWith("image/") || !file.type);
const holdsFiles = (event) => event.dataTransfer?.types.includes("Files");

// `add` gets the images of the query that the photos became; `fail` gets an error.
export function connectPhotos(add, fail) {
  async function take(files) {
    if (!files.length) return fail(new api.Failure("That is not an image: choose a photo."));
    document.body.classList.add("busy");
    try {
      add(await Promise.all(files.map(uploaded)));
    } catch (error) {
      fail(error);
    } finally {
      document.body.classList.remove("busy");
    }
  }
  $("add-photo").onclick = () => $("photo").click();
  $("photo").onchange = () => {
    take([...$("photo").files]);
    $("photo").value = "";
  };
  addEventListener("paste", (event) => {
    const files = imagesIn(event.clipboardData);
    if (!files.length) return; // text
    event.preventDefault();
    take(files);
  });
  addEventListener("dragover", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) $("drop").hidden = true; // left the window
  });
  addEventListener("drop", (event) => {
    if (!holdsFiles(event)) return;
    event.preventDefault();
    $("drop").hidden = true;
    take(imagesIn(event.dataTransfer));
  });
}
