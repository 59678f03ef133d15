// The recordings and their texts, which stay on this device (IndexedDB).
import { type DBSchema, type IDBPDatabase, openDB } from "idb";

export interface Entry {
  id: number;
  /** Milliseconds since 1970. */
  created: number;
  /** The length of the recording. */
  seconds: number;
  text: string;
  model: string;
  wav: Blob;
}

interface Schema extends DBSchema {
  entries: { key: number; value: Omit<Entry, "id"> & { id?: number } };
}

let database: Promise<IDBPDatabase<Schema>> | undefined;

function open(): Promise<IDBPDatabase<Schema>> {
  database ??= openDB<Schema>("tynda", 1, {
    upgrade: (db) => db.createObjectStore("entries", { keyPath: "id", autoIncrement: true }),
  });
  return database;
}

/** Returns all entries, the newest first. */
export async function entries(): Promise<Entry[]> {
  return ((await (await open()).getAll("entries")) as Entry[]).reverse();
}

/** Adds an entry; rejects with an Error of one line where there is no space for it. */
export async function add(entry: Omit<Entry, "id">): Promise<Entry> {
  void navigator.storage?.persist?.(); // Otherwise a browser may delete it to free space.
  try {
    return { ...entry, id: await (await open()).add("entries", entry) };
  } catch {
    throw new Error("the recording could not be kept: this device has no space for it");
  }
}

export async function remove(id: number): Promise<void> {
  await (await open()).delete("entries", id);
}
