// The database of this device (IndexedDB). What it keeps is encrypted with a key that no script can
// read, and that does not leave the device (Web Cryptography API: a CryptoKey that is not
// extractable).
import { type DBSchema, type IDBPDatabase, openDB } from "idb";

import { Problem } from "./problem.js";

/** A ciphertext (AES-GCM), which is bound to its store and id. */
export interface Sealed {
  id: string;
  iv: Uint8Array<ArrayBuffer>;
  data: ArrayBuffer;
}

/** The stores of ciphertexts: texts with all about them, recordings, and the API key. */
export type Store = "texts" | "recordings" | "secrets";
const STORES: Store[] = ["texts", "recordings", "secrets"];

interface Schema extends DBSchema {
  keys: { key: string; value: CryptoKey };
  texts: { key: string; value: Sealed };
  recordings: { key: string; value: Sealed };
  secrets: { key: string; value: Sealed };
}

const DEVICE = "device";
const BITS = 256;
const IV_BYTES = 12;

let database: Promise<IDBPDatabase<Schema>> | undefined;
let deviceKey: Promise<CryptoKey> | undefined;

export function open(): Promise<IDBPDatabase<Schema>> {
  database ??= openDB<Schema>("tynda", 2, {
    upgrade(db) {
      // Version 1 had recordings that were not encrypted.
      if (db.objectStoreNames.contains("entries" as never)) db.deleteObjectStore("entries" as never);
      db.createObjectStore("keys");
      for (const store of STORES) db.createObjectStore(store, { keyPath: "id" });
    },
    // Another tab has a newer version of the page.
    blocking: (_current, _blocked, event) => (event.target as IDBDatabase).close(),
  });
  return database;
}

/** Returns the key of this device, which is made once. */
function key(): Promise<CryptoKey> {
  deviceKey ??= foundOrMade();
  deviceKey.catch(() => (deviceKey = undefined)); // There may be space for it later.
  return deviceKey;
}

async function foundOrMade(): Promise<CryptoKey> {
  const algorithm = { name: "AES-GCM", length: BITS };
  const made = await crypto.subtle.generateKey(algorithm, false, ["encrypt", "decrypt"]);
  const transaction = (await open()).transaction("keys", "readwrite");
  const found = await transaction.store.get(DEVICE); // Another tab may have been first.
  if (!found) transaction.store.put(made, DEVICE).catch(() => undefined);
  await written(transaction.done);
  return found ?? made;
}

/** Waits for the end of a transaction, which tells why it failed; its requests tell only that. */
async function written(done: Promise<void>): Promise<void> {
  await done.catch((error: unknown) => {
    const isFull = error instanceof DOMException && error.name === "QuotaExceededError";
    throw isFull ? new Problem("errorSpace") : error;
  });
}

function parameters(store: Store, id: string, iv: Uint8Array<ArrayBuffer>): AesGcmParams {
  return { name: "AES-GCM", iv, additionalData: new TextEncoder().encode(`${store}/${id}`) };
}

/** Returns bytes as a ciphertext for a store. */
export async function seal(store: Store, id: string, bytes: BufferSource): Promise<Sealed> {
  const iv = crypto.getRandomValues(new Uint8Array(IV_BYTES));
  return { id, iv, data: await crypto.subtle.encrypt(parameters(store, id, iv), await key(), bytes) };
}

/** Returns the bytes of a ciphertext; rejects where it was changed. */
export async function unseal(store: Store, { id, iv, data }: Sealed): Promise<ArrayBuffer> {
  return crypto.subtle.decrypt(parameters(store, id, iv), await key(), data);
}

/** Writes all ciphertexts or none; rejects with a Problem where there is no space for them. */
export async function put(all: Partial<Record<Store, Sealed>>): Promise<void> {
  const stores = Object.keys(all) as Store[];
  const transaction = (await open()).transaction(stores, "readwrite");
  for (const store of stores) transaction.objectStore(store).put(all[store]!).catch(() => undefined);
  await written(transaction.done);
}

/** Keeps a text that nobody else may read, such as the API key; an empty one is removed. */
export async function keepSecret(id: string, text: string): Promise<void> {
  if (!text) return (await open()).delete("secrets", id);
  await put({ secrets: await seal("secrets", id, new TextEncoder().encode(text)) });
}

/** Returns a text that was kept; an empty one where there is none. */
export async function secret(id: string): Promise<string> {
  const sealed = await (await open()).get("secrets", id);
  return sealed ? new TextDecoder().decode(await unseal("secrets", sealed)) : "";
}
