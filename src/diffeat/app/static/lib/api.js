// Requests to the server, wherever the page lies; what it refuses is an Error with its words.
import { readPacket } from "./packet.js";

export async function get(path, query = {}, signal = undefined) {
  const asked = new URLSearchParams(Object.entries(query).filter(([, v]) => v !== "" && v !== undefined));
  return answered(await sent(`api/${path}${asked.size ? `?${asked}` : ""}`, { signal }));
}

export async function post(path, body, signal = undefined) {
  const headers = { "Content-Type": "application/json" };
  return answered(await sent(`api/${path}`, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

export async function upload(file, signal = undefined) {
  const query = new URLSearchParams({ name: file.name || "picture" });
  const headers = { "Content-Type": "application/octet-stream" };
  return answered(await sent(`api/pictures?${query}`, { method: "POST", headers, body: file, signal }));
}

export async function remove(id) {
  await answered(await sent(`api/pictures/${encodeURIComponent(id)}`, { method: "DELETE" }));
}

export function imageOf(id, side) {
  return `api/pictures/${encodeURIComponent(id)}/image?side=${side}`;
}

export function wasCancelled(error) {
  return error?.name === "AbortError";
}

async function sent(url, options) {
  try {
    return await fetch(url, options);
  } catch (error) {
    if (wasCancelled(error)) throw error;
    throw new Error("The server does not answer. Is diffeat app still running?");
  }
}

async function answered(response) {
  if (response.status === 204) return null;
  const kind = response.headers.get("Content-Type") ?? "";
  if (response.ok && kind === "application/zip") return response.blob();
  if (response.ok) return kind.startsWith("application/json") ? response.json() : readPacket(await response.arrayBuffer());
  const told = kind.startsWith("application/json") ? await response.json() : {};
  throw new Error(told.error ?? `The server answered ${response.status}.`);
}
