// Recordings of any length: they are cut where they are quiet, as tynda.sound.vad.split does.
import { type Engine, RATE } from "./module.js";

/** What was said in a part of a recording, from `start` to `end` in seconds. */
export interface Segment {
  start: number;
  end: number;
  text: string;
}

export interface Heard {
  text: string;
  /** The pieces that have a text. */
  segments: Segment[];
  /**
   * The geometric mean of the probabilities of the tokens, from 0 to 1; 1 where there are none. It
   * tells good texts from bad ones of the same model.
   */
  confidence: number;
}

// A piece is as long as the model takes, or shorter, down to this share of it.
const MIN_SHARE = 3 / 8;
const FRAME = (RATE * 30) / 1000;
// Frames of the moving average: as long as a pause between words.
const SMOOTHED = 10;

/** Recognises samples [count] piece by piece; `onSegment` is called after each that has a text. */
export function hear(
  engine: Engine,
  samples: Float32Array,
  onSegment: (segment: Segment) => void = () => undefined,
): Heard {
  const segments: Segment[] = [];
  let logProbability = 0;
  let tokens = 0;
  for (let start = 0; start < samples.length; ) {
    const rest = samples.subarray(start);
    const end = start + (rest.length > engine.maxSamples ? quietest(rest, engine.maxSamples) : rest.length);
    const text = engine.transcribe(samples.subarray(start, end));
    logProbability += engine.logProbability;
    tokens += engine.tokens;
    if (text) {
      segments.push({ start: start / RATE, end: end / RATE, text });
      onSegment(segments.at(-1)!);
    }
    start = end;
  }
  const confidence = tokens ? Math.exp(logProbability / tokens) : 1;
  return { text: segments.map(({ text }) => text).join(" "), segments, confidence };
}

/** Returns where to cut samples: the quietest point before `max`, but not near the beginning. */
export function quietest(samples: Float32Array, max: number): number {
  const min = Math.max(1, Math.floor(max * MIN_SHARE));
  const count = Math.floor((max - min) / FRAME);
  if (count === 0) return max;
  const energy = Float64Array.from({ length: count }, (_, i) => {
    const from = min + i * FRAME;
    return samples.subarray(from, from + FRAME).reduce((sum, x) => sum + x * x, 0);
  });
  const width = Math.min(SMOOTHED, count);
  // Of equally quiet spans, such as digital silence, the last makes the longest piece.
  let span = 0;
  let lowest = Infinity;
  for (let at = 0; at + width <= count; at++) {
    const sum = energy.subarray(at, at + width).reduce((sum, x) => sum + x, 0);
    if (sum <= lowest) [span, lowest] = [at, sum];
  }
  // A cut in the middle of the span could hit the edge of a word; its quietest frame does not.
  const within = energy.subarray(span, span + SMOOTHED);
  const least = within.reduce((a, b) => Math.min(a, b));
  const frames = [...within.keys()].filter((i) => within[i] === least);
  return min + (span + frames[frames.length >> 1]!) * FRAME + FRAME / 2;
}
