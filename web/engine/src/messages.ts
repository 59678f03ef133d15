// The messages between a page and its worker.
import { type Code, EngineError } from "./errors.js";
import type { SpokenCommand } from "./listening.js";
import type { Heard, Segment } from "./pieces.js";

export type Request =
  | { kind: "load"; id: number; url: string; threads: number }
  | { kind: "transcribe"; id: number; samples: Float32Array }
  // The next samples of a stream, of which a worker has one at a time.
  | { kind: "feed"; id: number; samples: Float32Array; isFirst: boolean; isTextWanted: boolean }
  | { kind: "finish"; id: number }
  // Commands of the grammar at a URL, which is read once; in the next samples of a recording.
  | { kind: "grammar"; id: number; url: string }
  | { kind: "command"; id: number; samples: Float32Array }
  | { kind: "listen"; id: number; samples: Float32Array; isFirst: boolean; isLast: boolean };

export type Answer =
  | { kind: "progress"; id: number; loaded: number; total: number | null }
  | { kind: "loaded"; id: number }
  | { kind: "segment"; id: number; segment: Segment }
  // `pending`: the samples of the piece that is not whole yet.
  | { kind: "partial"; id: number; text: string | null; pending: number; seconds: number }
  | { kind: "text"; id: number; heard: Heard; seconds: number; memory: number }
  | { kind: "grammar"; id: number; examples: string[] }
  | { kind: "commands"; id: number; commands: SpokenCommand[] }
  | { kind: "failed"; id: number; code: Code; message: string };

export interface Transcript extends Heard {
  /** The time that the recognition took, in seconds. */
  seconds: number;
  /** The memory of the engine, in bytes. */
  memory: number;
}

/** Returns the transcript that an answer has. */
export function transcript(answer: Answer): Transcript {
  if (answer.kind !== "text") throw new EngineError("failed", "the engine gave another answer");
  return { ...answer.heard, seconds: answer.seconds, memory: answer.memory };
}

/** Returns the commands that an answer has. */
export function commandsOf(answer: Answer): SpokenCommand[] {
  if (answer.kind !== "commands") throw new EngineError("failed", "the engine gave another answer");
  return answer.commands;
}
