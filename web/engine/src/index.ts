// Speech recognition in a browser: one class, whose work is done by a worker.
import type { Answer, Request } from "./messages.js";
import { RATE } from "./module.js";

export { RATE };

export interface LoadOptions {
  /** Called while the model is downloaded; `total` is null where the server does not state it. */
  onProgress?: (loaded: number, total: number | null) => void;
}

export interface Transcript {
  text: string;
  /** The time that the recognition took, in seconds. */
  seconds: number;
  /** The memory of the engine, in bytes. */
  memory: number;
}

interface Waiting {
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
}

/** A model in a worker of its own. Nothing but the download of the model uses the network. */
export class Recogniser {
  private readonly waiting = new Map<number, Waiting>();
  private onProgress: LoadOptions["onProgress"];
  private failure: Error | undefined;
  private count = 0;
  private samples = 0;

  private constructor(private readonly worker: Worker) {
    worker.onmessage = ({ data }: MessageEvent<Answer>) => this.answered(data);
    worker.onerror = () => this.fail(new Error("the engine stopped: load the model again"));
  }

  /**
   * Downloads a model that `tynda export MODEL FILE.tar.gz` wrote, or reads it from the cache.
   *
   * Rejects with an Error of one line where the model cannot be downloaded, is damaged or is no
   * model of tynda, and where there is not enough memory for it.
   */
  static async load(url: string | URL, options: LoadOptions = {}): Promise<Recogniser> {
    const worker = new Worker(new URL("./worker.ts", import.meta.url), { type: "module" });
    const recogniser = new Recogniser(worker);
    recogniser.onProgress = options.onProgress;
    try {
      const absolute = new URL(url, location.href).href;
      const answer = await recogniser.ask({ kind: "load", id: 0, url: absolute });
      if (answer.kind === "loaded") recogniser.samples = answer.maxSamples;
      return recogniser;
    } catch (error) {
      recogniser.close();
      throw error;
    }
  }

  /** The maximum length of a recording, in seconds. */
  get maxSeconds(): number {
    return this.samples / RATE;
  }

  /**
   * Returns the text of samples [count], from -1 to 1, mono at 16 kHz. Recordings that are given
   * while another is recognised wait for their turn.
   *
   * Rejects with an Error of one line where the recording is longer than `maxSeconds`, or has
   * samples that are not finite.
   */
  async transcribe(samples: Float32Array): Promise<string> {
    return (await this.transcribed(samples)).text;
  }

  /** Returns the same as `transcribe`, with what it took. */
  async transcribed(samples: Float32Array): Promise<Transcript> {
    const answer = await this.ask({ kind: "transcribe", id: 0, samples });
    if (answer.kind !== "text") throw new Error("the engine gave another answer");
    return { text: answer.text, seconds: answer.seconds, memory: answer.memory };
  }

  /** Ends the worker, and returns its memory. */
  close(): void {
    this.worker.terminate();
    this.fail(new Error("the recogniser was closed"));
  }

  private ask(request: Request): Promise<Answer> {
    if (this.failure) return Promise.reject(this.failure);
    const id = ++this.count;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...request, id });
    });
  }

  private answered(answer: Answer): void {
    if (answer.kind === "progress") return this.onProgress?.(answer.loaded, answer.total);
    const waiting = this.waiting.get(answer.id);
    this.waiting.delete(answer.id);
    if (answer.kind === "failed") waiting?.reject(new Error(answer.message));
    else waiting?.resolve(answer);
  }

  private fail(error: Error): void {
    this.failure ??= error;
    for (const { reject } of this.waiting.values()) reject(this.failure);
    this.waiting.clear();
  }
}
