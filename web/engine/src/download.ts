// The download of a model, which is cached.
import { EngineError } from "./errors.js";

const CACHE = "tynda-models";
const PIECE = 1 << 20;

/** Called with the number of bytes that have come, and of all, which is null where it is unknown. */
export type Progress = (loaded: number, total: number | null) => void;

/** A downloaded model, decompressed. */
export interface Download {
  blob: Blob;
  isCached: boolean;
}

/**
 * Returns the model at a URL, from the cache where it is there. Its bytes are not in the memory of
 * the page: a browser keeps a Blob elsewhere.
 *
 * Throws an EngineError where the server does not answer with a model.
 */
export async function obtain(url: string, onProgress: Progress): Promise<Download> {
  const cached = await (await openCache())?.match(url).catch(() => undefined);
  if (cached) return { blob: await cached.blob(), isCached: true };
  const response = await fetch(url).catch(() => undefined);
  if (!response) throw new EngineError("answer", `the model cannot be downloaded: no answer from ${url}`);
  if (!response.ok || !response.body)
    throw new EngineError("missing", `the model cannot be downloaded: ${response.status} from ${url}`);
  const length = Number(response.headers.get("Content-Length"));
  const total = length > 0 && !response.headers.has("Content-Encoding") ? length : null;
  const counted = response.body.pipeThrough(counting((loaded) => onProgress(loaded, total)));
  try {
    return { blob: await collected(await decompressed(counted)), isCached: false };
  } catch {
    throw new EngineError(
      "interrupted",
      "the download of the model was interrupted, or it is damaged",
    );
  }
}

/**
 * Caches a model in place of its other versions, whose URLs differ in their query. Where there is no
 * space for it, it is downloaded again the next time.
 */
export async function keep(url: string, blob: Blob): Promise<void> {
  const cache = await openCache();
  if (!cache) return;
  const path = url.split("?")[0];
  try {
    for (const { url: other } of await cache.keys())
      if (other !== url && other.split("?")[0] === path) await cache.delete(other);
    await cache.put(url, new Response(blob));
  } catch {
    await forget(url);
  }
}

/** Removes a model from the cache. */
export async function forget(url: string): Promise<void> {
  await (await openCache())?.delete(url).catch(() => undefined);
}

/** The cache, which pages have only where their connection is secure and storage is allowed. */
async function openCache(): Promise<Cache | undefined> {
  return "caches" in globalThis ? caches.open(CACHE).catch(() => undefined) : undefined;
}

function counting(onCount: (count: number) => void): TransformStream<Uint8Array, Uint8Array> {
  let count = 0;
  return new TransformStream({
    transform(chunk, controller) {
      onCount((count += chunk.length));
      controller.enqueue(chunk);
    },
  });
}

/** Decompresses what is in gzip's format (RFC 1952), and returns anything else as it is. */
async function decompressed(
  stream: ReadableStream<Uint8Array>,
): Promise<ReadableStream<Uint8Array>> {
  const reader = stream.getReader();
  const first = await reader.read();
  const isGzip = first.value?.[0] === 0x1f && first.value[1] === 0x8b;
  const whole = new ReadableStream<Uint8Array<ArrayBuffer>>({
    start(controller) {
      if (first.value) controller.enqueue(first.value as Uint8Array<ArrayBuffer>);
    },
    async pull(controller) {
      const { done, value } = await reader.read();
      if (done) return controller.close();
      controller.enqueue(value as Uint8Array<ArrayBuffer>);
    },
    cancel: (reason) => reader.cancel(reason),
  });
  return isGzip ? whole.pipeThrough(new DecompressionStream("gzip")) : whole;
}

/** Collects a stream in a Blob, in pieces, so that the page never has all of it. */
async function collected(stream: ReadableStream<Uint8Array>): Promise<Blob> {
  const blobs: Blob[] = [];
  let chunks: BlobPart[] = [];
  let size = 0;
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (value) {
      chunks.push(value as Uint8Array<ArrayBuffer>);
      size += value.length;
    }
    if (size >= PIECE || done) {
      blobs.push(new Blob(chunks));
      chunks = [];
      size = 0;
    }
    if (done) return new Blob(blobs);
  }
}
