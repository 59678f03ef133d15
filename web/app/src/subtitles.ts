// Subtitles in SubRip's format.
import type { Segment } from "../../engine/src/index.js";

/** Returns the file of segments. */
export function srt(segments: Segment[]): string {
  return segments
    .map(({ start, end, text }, i) => `${i + 1}\n${clock(start)} --> ${clock(end)}\n${text}\n`)
    .join("\n");
}

function clock(seconds: number): string {
  const all = Math.round(1000 * seconds);
  const part = (unit: number, count: number, digits: number) =>
    String(Math.floor(all / unit) % count).padStart(digits, "0");
  return `${part(3_600_000, 100, 2)}:${part(60_000, 60, 2)}:${part(1000, 60, 2)},${part(1, 1000, 3)}`;
}
