// Speech recognition in a browser: one class, whose work is done by a worker.
import { Commands, type Listener } from "./commands.js";
import { type Code, EngineError } from "./errors.js";
import type { SpokenCommand } from "./listening.js";
import { type Answer, type Request, transcript, type Transcript } from "./messages.js";
import { RATE } from "./module.js";
import type { Segment } from "./pieces.js";
import { Stream } from "./stream.js";

export { type Code, type Commands, EngineError, type Listener, RATE };
export { type Segment, type SpokenCommand, type Stream, type Transcript };

export interface LoadOptions {
  /** Called while the model is downloaded; `total` is null where the server does not state it. */
  onProgress?: (loaded: number, total: number | null) => void;
  /**
   * The most threads, by default up to 4 that the device has. There is one where the page is not
   * isolated from others (`crossOriginIsolated`).
   */
  threads?: number;
}

export interface TranscribeOptions {
  /** Called for each piece of a long recording that has a text, once it is recognised. */
  onSegment?: (segment: Segment) => void;
}

const MAX_THREADS = 4;

interface Waiting {
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
  onSegment: TranscribeOptions["onSegment"];
}

/** A model in a worker of its own. Nothing but the download of the model uses the network. */
export class Recogniser {
  private readonly waiting = new Map<number, Waiting>();
  private onProgress: LoadOptions["onProgress"];
  private failure: EngineError | undefined;
  private count = 0;

  private constructor(private readonly worker: Worker) {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.answered(data);
    worker.onerror = () => this.fail(new EngineError("stopped", "the engine stopped: load the model again"));
  }

  /**
   * Downloads a model that `tynda export MODEL FILE.tar.gz` wrote, or reads it from the cache.
   *
   * Rejects with an EngineError where the model cannot be downloaded, is damaged or is no
   * model of tynda, and where there is not enough memory for it.
   */
  static async load(url: string | URL, options: LoadOptions = {}): Promise<Recogniser> {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const recogniser = new Recogniser(worker);
    recogniser.onProgress = options.onProgress;
    try {
      const absolute = new URL(url, location.href).href;
      const threads = options.threads ?? Math.min(MAX_THREADS, navigator.hardwareConcurrency);
      await recogniser.ask({ kind: "load", id: 0, url: absolute, threads });
      return recogniser;
    } catch (error) {
      recogniser.close();
      throw error;
    }
  }

  /**
   * Returns the text of samples [count], from -1 to 1, mono at 16 kHz. A recording that is longer
   * than the model takes is cut where it is quiet. Recordings that are given while another is
   * recognised wait for their turn.
   *
   * Rejects with an EngineError where samples are not finite, and where there is not enough memory.
   */
  async transcribe(samples: Float32Array, options: TranscribeOptions = {}): Promise<string> {
    return (await this.transcribed(samples, options)).text;
  }

  /** Returns the same as `transcribe`, with its segments, the confidence, and what it took. */
  async transcribed(samples: Float32Array, options: TranscribeOptions = {}): Promise<Transcript> {
    const answer = await this.ask({ kind: "transcribe", id: 0, samples }, options.onSegment);
    return transcript(answer);
  }

  /**
   * Begins a recording that is recognised while it is spoken; an earlier one must have ended.
   * `onText` is called with the text so far, which may still change at its end, as often as this
   * device can; on one that needs too long, it is not called.
   */
  stream(onText: (text: string) => void): Stream {
    return new Stream((request) => this.ask(request), onText);
  }

  /**
   * Downloads what `tynda commands GRAMMAR --model MODEL --export FILE` wrote for this model, or
   * reads it from the cache, and returns what recognises its commands. There is one grammar at a
   * time.
   *
   * Rejects with an EngineError where the file cannot be downloaded or has no commands.
   */
  async commands(url: string | URL): Promise<Commands> {
    const answer = await this.ask({ kind: "grammar", id: 0, url: new URL(url, location.href).href });
    return new Commands((request) => this.ask(request), answer.kind === "grammar" ? answer.examples : []);
  }

  /** Ends the worker, and returns its memory. */
  close(): void {
    this.worker.terminate();
    this.fail(new EngineError("closed", "the recogniser was closed"));
  }

  private ask(request: Request, onSegment?: TranscribeOptions["onSegment"]): Promise<Answer> {
    if (this.failure) return Promise.reject(this.failure);
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject, onSegment });
      this.worker.postMessage({ ...request, id });
    });
  }

  private answered(answer: Answer): void {
    if (answer.kind === "progress") return this.onProgress?.(answer.loaded, answer.total);
    const waiting = this.waiting.get(answer.id);
    if (answer.kind === "segment") return waiting?.onSegment?.(answer.segment);
    this.waiting.delete(answer.id);
    if (answer.kind === "failed") waiting?.reject(new EngineError(answer.code, answer.message));
    else waiting?.resolve(answer);
  }

  private fail(error: EngineError): void {
    this.failure ??= error;
    for (const { reject } of this.waiting.values()) reject(this.failure);
    this.waiting.clear();
  }
}
