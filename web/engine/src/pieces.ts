// Recordings of any length: a decoder with timestamps says where its next window begins, as in
// tynda.heads.seq2seq.sliding; for other models they are cut where they are quiet, as
// tynda.sound.vad.split does.
import { type Engine, RATE } from "./module.js";

/** What was said in a part of a recording, from `start` to `end` in seconds. */
export interface Segment {
  start: number;
  end: number;
  text: string;
}

export interface Heard {
  text: string;
  /** Sentences of a decoder with timestamps; otherwise the pieces that have a text. */
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

/** A recording that is recognised piece by piece, whether all of it is there or not. */
export class Hearing {
  private readonly segments: Segment[] = [];
  private text = "";
  private pending = new Float32Array(0);
  private start = 0;
  private logProbability = 0;
  private tokens = 0;

  /** `onSegment` is called for each segment. */
  constructor(
    private readonly engine: Engine,
    private readonly onSegment: (segment: Segment) => void = () => undefined,
  ) {}

  /** Takes samples [count] that follow the others, and recognises the pieces that are whole. */
  feed(samples: Float32Array): void {
    const all = new Float32Array(this.pending.length + samples.length);
    all.set(this.pending);
    all.set(samples, this.pending.length);
    this.pending = all;
    const { maxSamples: max, hasTimestamps } = this.engine;
    while (this.pending.length > max) this.take(hasTimestamps ? max : quietest(this.pending, max));
  }

  /** The number of samples of the last piece, which is not whole. */
  get pendingSamples(): number {
    return this.pending.length;
  }

  /** Returns the text so far; that of the last piece may still change. */
  partial(): string {
    const { segments } = this.engine.hear(this.pending);
    return (this.text + segments.map(({ text }) => text).join("")).trim();
  }

  /** Recognises the rest, and returns all. */
  finish(): Heard {
    while (this.pending.length) this.take(this.pending.length);
    const { segments, tokens } = this;
    const confidence = tokens ? Math.exp(this.logProbability / tokens) : 1;
    return { text: this.text.trim(), segments, confidence };
  }

  private take(count: number): void {
    const piece = this.engine.hear(this.pending.subarray(0, count));
    this.logProbability += piece.logProbability;
    this.tokens += piece.tokens;
    for (const { start, end, text } of piece.segments) {
      this.text += text;
      const times = { start: (this.start + start) / RATE, end: (this.start + end) / RATE };
      const segment = { ...times, text: text.trim() };
      this.segments.push(segment);
      this.onSegment(segment);
    }
    this.pending = this.pending.subarray(piece.samples);
    this.start += piece.samples;
  }
}

/** Returns where to cut samples: the quietest point before `max`, but not near the beginning. */
function quietest(samples: Float32Array, max: number): number {
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
