// The recogniser compiled to WebAssembly: the functions of native/wasm/engine.cpp.
import type { Files } from "./archive.js";
import { type Code, nativeError } from "./errors.js";
import { plainImports, type ThreadExports, threadImports } from "./system.js";
import type { Crew } from "./threads.js";

interface Exports extends ThreadExports {
  memory: WebAssembly.Memory;
  _initialize(): void;
  load(threads: number): number;
  max_samples(): number;
  has_timestamps(): number;
  samples_memory(count: number): number;
  hear(samples: number, count: number): number;
  heard_samples(): number;
  heard_log_probability(): number;
  heard_tokens(): number;
  heard_segments(): number;
  segment_start(segment: number): number;
  segment_end(segment: number): number;
  segment_data(segment: number): number;
  segment_size(segment: number): number;
  find_log_probs(samples: number, count: number): number;
  log_probs_data(): number;
  log_probs_size(): number;
  log_probs_frames(): number;
  error_data(): number;
  error_size(): number;
}

/** The number of samples in a second. */
export const RATE = 16000;

/** Natural logarithms of the probabilities of all tokens [frames, tokens]. */
export interface LogProbs {
  values: Float32Array;
  frames: number;
}

/** What was said in a recording, or in the beginning of a longer one. */
export interface Piece {
  /** When it was said, in samples; a text has the space before it, so that all are joined as they are. */
  segments: { start: number; end: number; text: string }[];
  /** The number of samples after which the next piece begins. */
  samples: number;
  /** The natural logarithm of the probability of the tokens, and their number. */
  logProbability: number;
  tokens: number;
}

/** A loaded model. Errors have one line; after one that stops the engine, there are only errors. */
export class Engine {
  private constructor(
    private readonly exports: Exports,
    private readonly own: WebAssembly.Memory,
    /** The CRC-32 of the file of tokens, by which other files tell the models that they fit. */
    readonly tokenSum: number,
  ) {}

  /**
   * Reads the model. With a crew, the module is the one for threads, which it has. Throws an Error
   * where the files are damaged, missing or those of something else, and where there is not enough
   * memory.
   */
  static async load(module: WebAssembly.Module, files: Files, crew?: Crew): Promise<Engine> {
    let exports: Exports;
    const memory = () => crew?.memory ?? exports.memory;
    const bytes = (at: number, length: number) => new Uint8Array(memory().buffer, at, length);
    const name = (at: number, length: number) => decoded(bytes(at, length));
    const imports = {
      ...(crew
        ? threadImports(module, crew.memory, () => exports, (begin) => crew.begin(begin))
        : plainImports(memory)),
      files: {
        size: (at: number, length: number) => files.size(name(at, length)),
        read(at: number, length: number, offset: number, count: number, to: number): number {
          const found = files.read(name(at, length), offset, count);
          if (found) bytes(to, count).set(found);
          return found ? 1 : 0;
        },
      },
    };
    const instance = await WebAssembly.instantiate(module, imports);
    exports = instance.exports as unknown as Exports;
    if (crew) exports.__wasm_call_ctors();
    else exports._initialize();
    const tokens = files.read("tokens.txt", 0, Math.max(0, files.size("tokens.txt")));
    const engine = new Engine(exports, memory(), crc32(tokens ?? new Uint8Array(0)));
    engine.check(exports.load(1 + (crew?.size ?? 0)), "damaged");
    return engine;
  }

  /** The maximum number of samples that are recognised at once. */
  get maxSamples(): number {
    return this.exports.max_samples();
  }

  /** The memory that the engine has, in bytes. */
  get memory(): number {
    return this.own.buffer.byteLength;
  }

  /** Whether a longer recording is heard in windows that begin where the one before says. */
  get hasTimestamps(): boolean {
    return this.exports.has_timestamps() === 1;
  }

  /** Returns what samples from -1 to 1 at 16 kHz say. */
  hear(samples: Float32Array): Piece {
    const { exports } = this;
    this.check(exports.hear(this.given(samples), samples.length), "failed");
    const segments = Array.from({ length: exports.heard_segments() }, (_, i) => ({
      start: exports.segment_start(i),
      end: exports.segment_end(i),
      text: this.text(exports.segment_data(i), exports.segment_size(i)),
    }));
    return {
      segments,
      samples: exports.heard_samples(),
      logProbability: exports.heard_log_probability(),
      tokens: exports.heard_tokens(),
    };
  }

  /** Returns what a CTC model makes of such samples; throws an EngineError with another model. */
  logProbs(samples: Float32Array): LogProbs {
    const { find_log_probs, log_probs_data, log_probs_size, log_probs_frames } = this.exports;
    this.check(find_log_probs(this.given(samples), samples.length), "failed");
    const values = new Float32Array(this.own.buffer, log_probs_data(), log_probs_size()).slice();
    return { values, frames: log_probs_frames() };
  }

  /** Returns where samples are, in memory that the engine releases. */
  private given(samples: Float32Array): number {
    const at = this.exports.samples_memory(samples.length);
    if (!at) throw nativeError("out of memory", "failed");
    new Float32Array(this.own.buffer, at, samples.length).set(samples);
    return at;
  }

  /** Throws the last error where the engine `succeeded` not. */
  private check(succeeded: number, otherwise: Code): void {
    const { error_data, error_size } = this.exports;
    if (!succeeded) throw nativeError(this.text(error_data(), error_size()), otherwise);
  }

  private text(at: number, size: number): string {
    return decoded(new Uint8Array(this.own.buffer, at, size));
  }
}

/** The text of bytes, which may be those that threads share: a decoder takes no such bytes. */
function decoded(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes.slice());
}

/** The cyclic redundancy check of gzip (RFC 1952, section 8). */
function crc32(bytes: Uint8Array): number {
  let sum = -1;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = (sum >>> 1) ^ (sum & 1 ? 0xedb88320 : 0);
  }
  return ~sum >>> 0;
}
