// A search as it stands in the address of the page, and as the server is asked for it.

export const STEP = 40; // images that "Show more" adds
const MAX_SHOWN = 1000;
const EMPTY = {
  text: "", without: "", images: [], more: [], less: [],
  folder: "", pattern: "", since: "", until: "", hours: "", minSize: "", maxSize: "", min: "", group: true, perFile: false, k: STEP,
};
// Fields that stand in the address as they are, under these names.
const TEXTS = {
  q: "text", without: "without", folder: "folder", name: "pattern", since: "since", until: "until",
  hours: "hours", min_size: "minSize", max_size: "maxSize", min: "min",
};

export const empty = (changes = {}) => ({ ...EMPTY, ...changes });

const numbers = (list) => (list.match(/\d+/g) ?? []).map(Number);

// An image of the query: "17", or with a weight "17:0.5".
function image(kind, value) {
  const [name, weight] = value.split(":");
  return { [kind]: kind === "id" ? Number(name) : name, weight: Number(weight) || 1 };
}

export function read(query) {
  const given = new URLSearchParams(query), state = empty();
  for (const [name, field] of Object.entries(TEXTS)) state[field] = given.get(name) ?? "";
  for (const [name, value] of given) {
    if (name === "like" && /^\d+(:|$)/.test(value)) state.images = [...state.images, image("id", value)];
    if (name === "upload") state.images = [...state.images, image("upload", value)];
  }
  state.more = numbers(given.get("more") ?? "");
  state.less = numbers(given.get("less") ?? "");
  state.group = given.get("group") !== "0";
  state.perFile = given.get("per_file") === "1";
  state.k = Math.min(Math.max(Number(given.get("k")) || STEP, 1), MAX_SHOWN);
  return state;
}

export function write(state) {
  const given = new URLSearchParams();
  for (const [name, field] of Object.entries(TEXTS)) if (state[field].trim()) given.set(name, state[field].trim());
  for (const { id, upload, weight } of state.images) {
    given.append(upload ? "upload" : "like", `${upload ?? id}${weight === 1 ? "" : `:${weight}`}`);
  }
  if (state.more.length) given.set("more", state.more.join());
  if (state.less.length) given.set("less", state.less.join());
  if (!state.group) given.set("group", "0");
  if (state.perFile) given.set("per_file", "1");
  if (state.k !== STEP) given.set("k", state.k);
  const written = given.toString().replaceAll("%2C", ",").replaceAll("%3A", ":");
  return written ? `?${written}` : "";
}

// The same search, however many of its images are shown.
export const key = (state) => write({ ...state, k: STEP });

export const isQuery = ({ text, images, more }) => Boolean(text.trim() || images.length || more.length);

const size = (text) => (/^\d+x\d+$/.test(text) ? text.split("x").map(Number) : null);

// The body of POST /api/search.
export function body(state, k, offset) {
  const { text, more, less, folder, pattern, since, until, hours, group, perFile } = state;
  const filters = { folder, pattern, since, until, hours, min_size: size(state.minSize), max_size: size(state.maxSize) };
  const min_score = state.min === "" ? null : Number(state.min);
  const without = state.without.trim() ? [state.without] : [];
  return { text, without, images: state.images, more, less, filters, min_score, k, offset, group, per_file: perFile };
}

const images = (list, words = "") => list.length && `${words}${list.length} image${list.length > 1 ? "s" : ""}`;

// The search in words: the title of the page, and its line in the history.
export function describe(state) {
  const { text, more, less, without, folder, pattern, hours } = state;
  const sought = [text.trim(), images(state.images), images(more, "more of "), images(less, "less of ")];
  const limits = [without.trim() && `without ${without.trim()}`, folder && `in ${folder}`, pattern, hours];
  return [sought.filter(Boolean).join(" + "), ...limits].filter(Boolean).join(", ");
}
