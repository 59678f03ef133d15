// The download of a model, which is cached.
import { EngineError } from "./errors.js";
import { openCache, Part } from "./part.js";

const CACHE = "tynda-models";
const PIECE = 1 << 20;
// Milliseconds before a download that was cut goes on.
const PAUSE = 1000;

/** Called with the number of bytes that have come, and of all, which is null where it is unknown. */
export type Progress = (loaded: number, total: number | null) => void;

/** A downloaded model, decompressed. */
export interface Download {
  blob: Blob;
  isCached: boolean;
}

/**
 * Returns the model at a URL, from the cache where it is there. Its bytes are not in the memory of
 * the page: a browser keeps a Blob elsewhere. A download that is cut goes on where it was, also
 * when the page is opened again.
 *
 * Throws an EngineError where the server does not answer with a model.
 */
export async function obtain(url: string, onProgress: Progress): Promise<Download> {
  const cached = await (await openCache(CACHE))?.match(url).catch(() => undefined);
  if (cached) return { blob: await cached.blob(), isCached: true };
  const part = await Part.of(url);
  for (let { size } = part; ; ) {
    try {
      await fetchRest(url, part, onProgress);
      break;
    } catch (error) {
      // As long as more bytes come each time, there is a network.
      if (!(error instanceof EngineError && error.code === "interrupted") || part.size <= size) throw error;
      size = part.size;
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
  try {
    return { blob: await collected(await decompressed(new Blob(part.blobs).stream())), isCached: false };
  } catch {
    throw interrupted();
  } finally {
    await part.clear();
  }
}

/** Downloads the bytes that follow a part. */
async function fetchRest(url: string, part: Part, onProgress: Progress): Promise<void> {
  // The server answers with the whole file where it has another one now (RFC 9110, 13.1.5).
  const headers = new Headers(part.tag ? { Range: `bytes=${part.size}-`, "If-Range": part.tag } : {});
  const response = await fetch(url, { headers }).catch(() => undefined);
  if (!response) throw new EngineError("answer", `the model cannot be downloaded: no answer from ${url}`);
  const isRest = response.status === 206 && response.headers.get("Content-Range")?.startsWith(`bytes ${part.size}-`);
  if (!isRest) await part.clear();
  if (response.status === 416 || (response.status === 206 && !isRest)) return fetchRest(url, part, onProgress);
  if (!response.ok || !response.body)
    throw new EngineError("missing", `the model cannot be downloaded: ${response.status} from ${url}`);
  const isPlain = !response.headers.has("Content-Encoding");
  const tag = response.headers.get("ETag") ?? "";
  // A weak tag is that of other bytes with the same meaning as well.
  if (!isRest) part.tag = isPlain && !tag.startsWith("W/") ? tag : "";
  const length = Number(response.headers.get("Content-Length"));
  const total = length > 0 && isPlain ? part.size + length : null;
  let loaded = part.size;
  const count = (chunk: Uint8Array) => onProgress((loaded += chunk.length), total);
  try {
    await inPieces(response.body, count, (piece) => part.add(piece));
  } catch {
    if (!part.tag) await part.clear();
    throw interrupted();
  }
}

function interrupted(): EngineError {
  return new EngineError("interrupted", "the download of the model was interrupted, or it is damaged");
}

/**
 * Caches a model in place of its other versions, whose URLs differ in their query. Where there is no
 * space for it, it is downloaded again the next time.
 */
export async function keep(url: string, blob: Blob): Promise<void> {
  const cache = await openCache(CACHE);
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
  await (await openCache(CACHE))?.delete(url).catch(() => undefined);
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

/** Collects a stream in a Blob. */
async function collected(stream: ReadableStream<Uint8Array>): Promise<Blob> {
  const blobs: Blob[] = [];
  await inPieces(stream, () => undefined, async (piece) => void blobs.push(piece));
  return new Blob(blobs);
}

/**
 * Passes a stream on in pieces, so that the page never has all of it; also what came before an
 * error.
 */
async function inPieces(
  stream: ReadableStream<Uint8Array>,
  onChunk: (chunk: Uint8Array) => void,
  onPiece: (piece: Blob) => Promise<void>,
): Promise<void> {
  let chunks: BlobPart[] = [];
  let size = 0;
  const reader = stream.getReader();
  const pass = async () => {
    if (size) await onPiece(new Blob(chunks));
    chunks = [];
    size = 0;
  };
  try {
    for (let next; !(next = await reader.read()).done; ) {
      chunks.push(next.value as Uint8Array<ArrayBuffer>);
      size += next.value.length;
      onChunk(next.value);
      if (size >= PIECE) await pass();
    }
  } finally {
    await pass();
  }
}
