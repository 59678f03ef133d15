// The worker of a Recogniser: it downloads one model, and recognises one recording after the other.
import { Archive, type Bytes } from "./archive.js";
import { forget, keep, obtain, type Progress } from "./download.js";
import { EngineError } from "./errors.js";
import { Grammar } from "./grammar.js";
import { Listening, recognised } from "./listening.js";
import type { Answer, Request } from "./messages.js";
import { Engine, RATE } from "./module.js";
import { Hearing } from "./pieces.js";
import { Crew } from "./threads.js";

declare const self: DedicatedWorkerGlobalScope;

class BlobBytes implements Bytes {
  private readonly reader = new FileReaderSync();
  constructor(private readonly blob: Blob) {}
  get size(): number {
    return this.blob.size;
  }
  read(offset: number, length: number): Uint8Array {
    const slice = this.blob.slice(offset, offset + length);
    return new Uint8Array(this.reader.readAsArrayBuffer(slice));
  }
}

let engine: Engine | undefined;
let stream: Hearing | undefined;

let grammar: Grammar | undefined;
let listening: Listening | undefined;

async function load(id: number, url: string, threads: number): Promise<Engine> {
  // Threads share their memory, which only a page that is isolated from others may.
  const crew = crossOriginIsolated && threads > 1 ? await Crew.of(threads - 1) : undefined;
  const engine = crew
    ? new URL("../engine-threads.wasm", import.meta.url)
    : new URL("../engine.wasm", import.meta.url);
  const compiled = WebAssembly.compileStreaming(fetch(engine));
  compiled.catch(() => undefined); // Its error is reported below.
  const onProgress = (loaded: number, total: number | null) => answer({ kind: "progress", id, loaded, total });
  return read(url, onProgress, async (blob) => {
    const module = await compiled.catch(() => {
      const message = "the engine cannot be downloaded, or this browser has no WebAssembly SIMD";
      throw new EngineError("engine", message);
    });
    return Engine.load(module, new Archive(new BlobBytes(blob)), crew);
  });
}

/** Returns what a function makes of a file; one in the cache that is damaged is downloaded again. */
async function read<T>(url: string, onProgress: Progress, made: (blob: Blob) => Promise<T>): Promise<T> {
  for (;;) {
    const { blob, isCached } = await obtain(url, onProgress);
    try {
      const result = await made(blob);
      if (!isCached) await keep(url, blob);
      return result;
    } catch (error) {
      if (!isCached) throw error;
      await forget(url);
    }
  }
}

async function handled(request: Request): Promise<Answer> {
  const { id } = request;
  if (request.kind === "load") {
    engine = await load(id, request.url, request.threads);
    return { kind: "loaded", id };
  }
  if (!engine) throw new EngineError("failed", "no model was loaded");
  const started = performance.now();
  const seconds = () => (performance.now() - started) / 1000;
  if (request.kind === "feed") {
    if (request.isFirst) stream = new Hearing(engine);
    stream!.feed(request.samples);
    const text = request.isTextWanted ? stream!.partial() : null;
    return { kind: "partial", id, text, pending: stream!.pendingSamples, seconds: seconds() };
  }
  if (request.kind === "grammar") {
    const { tokenSum } = engine;
    grammar = await read(request.url, () => undefined, async (blob) =>
      Grammar.read(await blob.text(), tokenSum),
    );
    return { kind: "grammar", id, examples: grammar.examples };
  }
  if (request.kind === "command") {
    const { samples } = request;
    const command = recognised(engine, grammar!, samples);
    return { kind: "commands", id, commands: [{ ...command, start: 0, end: samples.length / RATE }] };
  }
  if (request.kind === "listen") {
    if (request.isFirst) listening = new Listening(engine, grammar!);
    const commands = listening!.feed(request.samples);
    if (request.isLast) commands.push(...listening!.finish());
    return { kind: "commands", id, commands };
  }
  let hearing = stream!;
  if (request.kind === "transcribe") {
    hearing = new Hearing(engine, (segment) => answer({ kind: "segment", id, segment }));
    hearing.feed(request.samples);
  }
  const heard = hearing.finish();
  return { kind: "text", id, heard, seconds: seconds(), memory: engine.memory };
}

function answer(message: Answer): void {
  self.postMessage(message);
}

self.onmessage = async ({ data }: MessageEvent<Request>) => {
  try {
    answer(await handled(data));
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    const code = error instanceof EngineError ? error.code : "failed";
    answer({ kind: "failed", id: data.id, code, message });
  }
};
