// Errors that a page can tell apart, and say in its own language.

/**
 * What went wrong: the model has no `answer` from its server, which has none (`missing`), or its
 * download is `interrupted`, or it is `damaged`; there is no `engine` in this browser; there is not
 * enough `memory`; the samples are not `finite`; the worker `stopped` or was `closed`; anything
 * else that `failed`.
 */
export type Code =
  | "answer"
  | "missing"
  | "interrupted"
  | "damaged"
  | "engine"
  | "memory"
  | "finite"
  | "stopped"
  | "closed"
  | "failed";

/** An error of one line, in English. */
export class EngineError extends Error {
  constructor(
    readonly code: Code,
    message: string,
  ) {
    super(message);
  }
}

/** Returns an error of the native code, whose message is known. */
export function nativeError(message: string, otherwise: Code): EngineError {
  const codes: Record<string, Code> = { "out of memory": "memory", "a sample is not finite": "finite" };
  return new EngineError(codes[message] ?? otherwise, message);
}
