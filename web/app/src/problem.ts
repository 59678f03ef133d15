// Errors that the page says in its language.
import { type Code, EngineError } from "../../engine/src/index.js";
import type { Key, Say } from "./strings.js";

/** An error with the key of its line, and a detail where that has a place for it. */
export class Problem extends Error {
  constructor(
    readonly key: Key,
    readonly detail = "",
  ) {
    super(detail ? `${key}: ${detail}` : key);
  }
}

const ENGINE: Record<Code, Key> = {
  answer: "errorAnswer",
  missing: "errorMissing",
  interrupted: "errorInterrupted",
  damaged: "errorDamaged",
  engine: "errorEngine",
  memory: "errorMemory",
  finite: "errorFinite",
  stopped: "errorStopped",
  closed: "errorClosed",
  failed: "errorFailed",
};

/** Returns what was thrown as a problem. */
export function problemOf(cause: unknown): Problem {
  if (cause instanceof Problem) return cause;
  const message = cause instanceof Error ? cause.message : String(cause);
  return new Problem(cause instanceof EngineError ? ENGINE[cause.code] : "errorFailed", message);
}

/** Returns the line that tells a problem. */
export function said(say: Say, { key, detail }: { key: Key; detail: string }): string {
  return say(key, { detail });
}
