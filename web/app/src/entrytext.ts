// How the page tells what an entry has.
import type { Entry } from "./history.js";
import type { Say, Speaker } from "./strings.js";

/** Returns the text of an entry, or what tells that there is none. */
export function textOf({ text, place }: Entry, say: Say): string {
  return text || say(place === null ? "notRecognised" : "noWords");
}

/** Returns where a text was made. */
export function madeBy({ place, confidence, isCorrected, model }: Entry, speaker: Speaker): string {
  const percent = speaker.percent(confidence);
  const where = place === "server" ? speaker.say("byServer") : speaker.say("byDevice", { percent });
  return [where, model, ...(isCorrected ? [speaker.say("corrected")] : [])].join(", ");
}
