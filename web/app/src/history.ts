// The recordings and their texts, which are kept on this device.
import type { Segment } from "../../engine/src/index.js";
import { open, put, seal, type Sealed, unseal } from "./database.js";
import type { Key } from "./strings.js";

/** Whether models may learn from a recording: not asked, agreed, sent, or taken back. */
export type Learning = "no" | "agreed" | "given" | "withdrawn";

export interface Entry {
  /** 32 hexadecimal digits, which are also the id of its job on the server. */
  id: string;
  /** Milliseconds since 1970. */
  created: number;
  /** The length of the recording. */
  seconds: number;
  /** The language of the speech. */
  spoken: string;
  text: string;
  segments: Segment[];
  /** Where the text was made; null where there is none yet. */
  place: "device" | "server" | null;
  /** The name of the model that made it. */
  model: string;
  /** How sure the device was. */
  confidence: number;
  isCorrected: boolean;
  /** Whether the server is to recognise it. */
  isWanted: boolean;
  /** Whether the server may have the recording: it was sent as a job, and was not deleted. */
  isSent: boolean;
  /** Why the server does not do it, until it is asked again. */
  refusal: { key: Key; detail: string } | null;
  learning: Learning;
  /** It was deleted here, and is to be deleted on the server. */
  isDeleted: boolean;
}

const LOCK = "tynda.history";
const channel = new BroadcastChannel("tynda.history");

export function newId(): string {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** Returns all entries, the newest first, also those that are only to be deleted on the server. */
export async function entries(): Promise<Entry[]> {
  const sealed = await (await open()).getAll("texts");
  const found = await Promise.all(sealed.map(opened));
  return found.sort((a, b) => b.created - a.created || (a.id < b.id ? 1 : -1));
}

export async function find(id: string): Promise<Entry | undefined> {
  const sealed = await (await open()).get("texts", id);
  return sealed && opened(sealed);
}

/** Returns the recording as a WAV file. */
export async function recording(id: string): Promise<Blob> {
  const sealed = await (await open()).get("recordings", id);
  if (!sealed) throw new Error("no recording");
  return new Blob([await unseal("recordings", sealed)], { type: "audio/wav" });
}

/** Adds an entry with its recording; rejects with a Problem where there is no space for them. */
export async function add(entry: Entry, wav: Blob): Promise<void> {
  void navigator.storage?.persist?.(); // Otherwise a browser may delete it to free space.
  const text = await closed(entry);
  const audio = await seal("recordings", entry.id, await wav.arrayBuffer());
  await put({ texts: text, recordings: audio });
  told();
}

/** Returns what changes in an entry. */
export type Change = (entry: Entry) => Partial<Entry>;

/** Changes an entry, and returns it; nothing where it was deleted meanwhile. */
export function update(id: string, change: Change): Promise<Entry | undefined> {
  return navigator.locks.request(LOCK, async () => {
    const before = await find(id);
    if (!before || before.isDeleted) return before;
    const entry = { ...before, ...change(before) };
    await put({ texts: await closed(entry) });
    told();
    return entry;
  });
}

/**
 * Deletes an entry with its recording. Where the server may have the recording, the entry remains,
 * without a text, until it was deleted there.
 */
export function remove(id: string): Promise<void> {
  return navigator.locks.request(LOCK, async () => {
    const before = await find(id);
    const transaction = (await open()).transaction(["texts", "recordings"], "readwrite");
    await Promise.all([
      transaction.objectStore("texts").delete(id),
      transaction.objectStore("recordings").delete(id),
      transaction.done,
    ]);
    if (before?.isSent) {
      const rest = { ...before, text: "", segments: [], isDeleted: true };
      await put({ texts: await closed(rest) });
    }
    told();
  });
}

/** Removes what remained of a deleted entry. */
export async function forget(id: string): Promise<void> {
  await (await open()).delete("texts", id);
}

/** Calls a function after each change, in whatever tab; returns the function that ends it. */
export function onChange(changed: () => void): () => void {
  channel.addEventListener("message", changed);
  addEventListener(LOCK, changed);
  return () => {
    channel.removeEventListener("message", changed);
    removeEventListener(LOCK, changed);
  };
}

function told(): void {
  channel.postMessage(null);
  dispatchEvent(new Event(LOCK));
}

async function opened(sealed: Sealed): Promise<Entry> {
  return JSON.parse(new TextDecoder().decode(await unseal("texts", sealed))) as Entry;
}

function closed(entry: Entry): Promise<Sealed> {
  return seal("texts", entry.id, new TextEncoder().encode(JSON.stringify(entry)));
}
