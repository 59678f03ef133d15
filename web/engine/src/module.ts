// The recogniser compiled to WebAssembly: the functions of native/wasm/engine.cpp.
import type { Files } from "./archive.js";
import { type Code, EngineError, nativeError } from "./errors.js";

interface Exports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  load(): number;
  max_samples(): number;
  samples_memory(count: number): number;
  transcribe(samples: number, count: number): number;
  find_log_probs(samples: number, count: number): number;
  log_probs_data(): number;
  log_probs_size(): number;
  log_probs_frames(): number;
  text_data(): number;
  text_size(): number;
  text_log_probability(): number;
  text_tokens(): number;
}

/** The number of samples in a second. */
export const RATE = 16000;

/** Natural logarithms of the probabilities of all tokens [frames, tokens]. */
export interface LogProbs {
  values: Float32Array;
  frames: number;
}

/** A loaded model. Errors have one line; after one that stops the engine, there are only errors. */
export class Engine {
  private constructor(private readonly exports: Exports) {}

  /**
   * Reads the model. Throws an Error where the files are damaged, missing or those of something
   * else, and where there is not enough memory.
   */
  static async load(module: WebAssembly.Module, files: Files): Promise<Engine> {
    let exports: Exports;
    const bytes = (at: number, length: number) => new Uint8Array(exports.memory.buffer, at, length);
    const name = (at: number, length: number) => new TextDecoder().decode(bytes(at, length));
    const view = () => new DataView(exports.memory.buffer);
    const imports = {
      files: {
        size: (at: number, length: number) => files.size(name(at, length)),
        read(at: number, length: number, offset: number, count: number, to: number): number {
          const found = files.read(name(at, length), offset, count);
          if (found) bytes(to, count).set(found);
          return found ? 1 : 0;
        },
      },
      env: { emscripten_notify_memory_growth: () => undefined },
      // The standard library of C++ imports a clock and an environment, which is empty.
      wasi_snapshot_preview1: {
        clock_time_get(_clock: number, _precision: bigint, to: number): number {
          view().setBigUint64(to, BigInt(Math.round(performance.now() * 1e6)), true);
          return 0;
        },
        environ_sizes_get(count: number, size: number): number {
          view().setUint32(count, 0, true);
          view().setUint32(size, 0, true);
          return 0;
        },
        environ_get: () => 0,
        proc_exit(): void {
          throw new EngineError("stopped", "the engine stopped");
        },
      },
    };
    const instance = await WebAssembly.instantiate(module, imports);
    exports = instance.exports as unknown as Exports;
    exports._initialize();
    const engine = new Engine(exports);
    engine.checked(exports.load(), "damaged");
    return engine;
  }

  /** The maximum number of samples that are recognised at once. */
  get maxSamples(): number {
    return this.exports.max_samples();
  }

  /** The memory that the engine has, in bytes. */
  get memory(): number {
    return this.exports.memory.buffer.byteLength;
  }

  /** Returns the text of samples from -1 to 1 at 16 kHz. */
  transcribe(samples: Float32Array): string {
    return this.checked(this.exports.transcribe(this.given(samples), samples.length), "failed");
  }

  /** Returns what a CTC model makes of such samples; throws an EngineError with another model. */
  logProbs(samples: Float32Array): LogProbs {
    const { memory, find_log_probs, log_probs_data, log_probs_size, log_probs_frames } = this.exports;
    this.checked(find_log_probs(this.given(samples), samples.length), "failed");
    const values = new Float32Array(memory.buffer, log_probs_data(), log_probs_size()).slice();
    return { values, frames: log_probs_frames() };
  }

  /** The natural logarithm of the probability of the last text's tokens. */
  get logProbability(): number {
    return this.exports.text_log_probability();
  }

  /** The number of the last text's tokens. */
  get tokens(): number {
    return this.exports.text_tokens();
  }

  /** Returns where samples are, in memory that the engine releases. */
  private given(samples: Float32Array): number {
    const at = this.exports.samples_memory(samples.length);
    if (!at) throw nativeError("out of memory", "failed");
    new Float32Array(this.exports.memory.buffer, at, samples.length).set(samples);
    return at;
  }

  /** Returns the last text, which is an error where the engine `succeeded` not. */
  private checked(succeeded: number, otherwise: Code): string {
    const { memory, text_data, text_size } = this.exports;
    const text = new TextDecoder().decode(new Uint8Array(memory.buffer, text_data(), text_size()));
    if (!succeeded) throw nativeError(text, otherwise);
    return text;
  }
}
