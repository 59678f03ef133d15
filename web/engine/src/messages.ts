// The messages between a page and its worker.
import type { Code } from "./errors.js";
import type { Heard, Segment } from "./pieces.js";

export type Request =
  | { kind: "load"; id: number; url: string }
  | { kind: "transcribe"; id: number; samples: Float32Array };

export type Answer =
  | { kind: "progress"; id: number; loaded: number; total: number | null }
  | { kind: "loaded"; id: number }
  | { kind: "segment"; id: number; segment: Segment }
  | { kind: "text"; id: number; heard: Heard; seconds: number; memory: number }
  | { kind: "failed"; id: number; code: Code; message: string };
