// Requests to the server. What goes wrong is thrown as a Failure, whose message is for the user.

const SECONDS = { search: 30, explain: 60, upload: 120, export: 600 };

export class Failure extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export class Cancelled extends Error {}

let askPassword = null;

// Name the function that waits for the user to log in; the request is then repeated.
export function whenLoginIsNeeded(ask) {
  askPassword = ask;
}

async function failure(response) {
  const isJson = response.headers.get("Content-Type")?.startsWith("application/json");
  const said = isJson && (await response.json()).error;
  return new Failure(said || `The server answered ${response.status}`, response.status);
}

// What `read` makes of the response: "json", "blob" or "text".
async function request(address, options, { read = "json", seconds = SECONDS.search, cancel } = {}) {
  const limit = AbortSignal.timeout(1000 * seconds);
  const signal = cancel ? AbortSignal.any([limit, cancel]) : limit;
  try {
    const response = await fetch(`api/${address}`, { ...options, signal });
    if (!response.ok) throw await failure(response);
    return await response[read]();
  } catch (error) {
    if (cancel?.aborted) throw new Cancelled();
    if (limit.aborted) throw new Failure(`No answer within ${seconds} seconds: the server is busy, or the connection is slow.`);
    if (error instanceof TypeError) throw new Failure("The server does not answer. Is it still running?");
    if (error.status !== 401 || !askPassword || address === "login") throw error;
  }
  await askPassword();
  return request(address, options, { read, seconds, cancel });
}

function post(address, body, how) {
  const headers = { "Content-Type": "application/json" };
  return request(address, { method: "POST", headers, body: JSON.stringify(body) }, how);
}

export const about = () => request("about", {});
export const search = (body, cancel) => post("search", body, { cancel });
export const login = (password) => post("login", { password }, { read: "text" });
export const logout = () => post("logout", {}, { read: "text" });
export const upload = (file) => {
  const headers = { "Content-Type": "application/octet-stream" };
  return request("upload", { method: "POST", headers, body: file }, { seconds: SECONDS.upload });
};
export const details = (id) => request(`images/${id}`, {});
export const explain = (id, text, crop) => post(`images/${id}/explain${ofCrop(crop)}`, { text }, { read: "blob", seconds: SECONDS.explain });
export const exported = (body) => post("export", body, { read: "blob", seconds: SECONDS.export });

// Crop 0 is the image, or the person; of a track there may be others.
const ofCrop = (crop) => (crop ? `?crop=${crop}` : "");

export const thumbnail = (id, crop = 0) => `api/images/${id}/thumbnail${ofCrop(crop)}`;
export const view = (id, crop = 0) => `api/images/${id}/view${ofCrop(crop)}`;
export const scene = (id, crop = 0) => `api/images/${id}/scene${ofCrop(crop)}`;
export const video = (id) => `api/images/${id}/video`;
export const file = (id, inline = false) => `api/images/${id}/file${inline ? "?inline=1" : ""}`;
