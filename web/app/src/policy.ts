// Who recognises a recording, by the policy that the user has chosen.
import type { ModelInfo } from "./models.js";
import { OTHER, type Policy } from "./settings.js";

/** Longer recordings are sent to the server, which needs less time for them. */
export const LONG_SECONDS = 60;

/** Below it, the text of the device is likely to be wrong (docs/web.md has how it was chosen). */
const SURE = 0.7;

/** Returns whether a model knows the language of the speech. */
export function knows(model: ModelInfo, spoken: string): boolean {
  return spoken !== OTHER && model.languages.includes(spoken);
}

/** Returns whether the server recognises a recording and the device does not. */
export function isForServer(policy: Policy, model: ModelInfo, spoken: string, seconds: number): boolean {
  if (policy === "device") return false;
  return policy === "server-first" || seconds > LONG_SECONDS || !knows(model, spoken);
}

/** Returns whether the server is asked after the device. */
export function isUnsure(policy: Policy, confidence: number): boolean {
  return policy === "device-first" && confidence < SURE;
}
