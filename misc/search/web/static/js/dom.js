// Elements of the page. Texts are set by textContent only, so that markup in file names is not interpreted.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

export const fromTemplate = (id) => $(id).content.cloneNode(true).firstElementChild;

const TAIL = 16; // characters of a file name that stay visible in a narrow cell

// Fill an element with a path that is shortened in its middle: its end, which differs between images, stays.
export function setPath(target, path) {
  const characters = [...path];
  const name = [...path.slice(path.lastIndexOf("/") + 1)];
  const kept = Math.min(name.length, TAIL);
  const parts = [characters.slice(0, -kept), characters.slice(-kept)].map((part) => part.join(""));
  target.replaceChildren(...["head", "tail"].map((className, at) => element("span", { className, textContent: parts[at] })));
  target.title = path;
}

export const fileName = (path) => path.slice(path.lastIndexOf("/") + 1);
export const folderOf = (path) => path.slice(0, Math.max(path.lastIndexOf("/"), 0));
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

// Seconds as 0:12, or 1:02:03.
export function clock(seconds) {
  const [hours, minutes, rest] = [seconds / 3600, (seconds / 60) % 60, seconds % 60].map(Math.floor);
  const parts = hours ? [hours, String(minutes).padStart(2, "0")] : [minutes];
  return [...parts, String(rest).padStart(2, "0")].join(":");
}

// When the person of a track is seen: "0:12 to 0:17"; "" of others.
export function span({ first, last }) {
  if (typeof first !== "number") return "";
  return [...new Set([clock(first), clock(last)])].join(" to ");
}

export function setPressed(button, isPressed) {
  button.setAttribute("aria-pressed", String(isPressed));
}

export const isPressed = (button) => button.getAttribute("aria-pressed") === "true";

// Offer data as a file.
export function save(blob, name) {
  const link = element("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

export async function copy(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Browsers offer the clipboard to https and to this machine only.
  const field = element("textarea", { value: text });
  (document.querySelector("dialog[open]") ?? document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
