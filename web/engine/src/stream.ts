// A recording that is recognised while it is spoken.
import { type Answer, type Request, transcript, type Transcript } from "./messages.js";
import { RATE } from "./module.js";

// The text so far is found after so much more speech.
const STEP = 0.4 * RATE;
// Where it takes longer, several times in a row, there is no text until the next piece begins: the
// longer a piece gets, the longer it takes.
const MAX_SECONDS = 0.6;
const TRIES = 2;

/** Samples go in as they come; the text so far, and all of it at the end, come out. */
export class Stream {
  private blocks: Float32Array[] = [];
  private count = 0;
  private isFirst = true;
  private slow = 0;
  // The samples of the last piece, which is not whole.
  private pending = 0;
  // The time before which no text is found, so that at most half of the time is spent on it.
  private pauseEnd = 0;
  private running: Promise<void> | undefined;
  private failure: unknown;

  /** See `Recogniser.stream`. */
  constructor(
    private readonly ask: (request: Request) => Promise<Answer>,
    private readonly onText: (text: string) => void,
  ) {}

  /** Takes samples [count], from -1 to 1, mono at 16 kHz, that follow the others. */
  feed(samples: Float32Array): void {
    this.blocks.push(samples);
    this.count += samples.length;
    if (this.count >= STEP) this.running ??= this.run();
  }

  /**
   * Returns the transcript, which is that of `Recogniser.transcribed` for all samples.
   *
   * Rejects as that does.
   */
  async finish(): Promise<Transcript> {
    await this.running;
    await this.send(false);
    if (this.failure) throw this.failure;
    return transcript(await this.ask({ kind: "finish", id: 0 }));
  }

  private async run(): Promise<void> {
    while (this.count >= STEP && !this.failure)
      await this.send(this.slow < TRIES && performance.now() >= this.pauseEnd);
    this.running = undefined;
  }

  private async send(isTextWanted: boolean): Promise<void> {
    const samples = joined(this.blocks);
    this.blocks = [];
    this.count = 0;
    const { isFirst } = this;
    this.isFirst = false;
    try {
      const answer = await this.ask({ kind: "feed", id: 0, samples, isFirst, isTextWanted });
      if (answer.kind !== "partial") return;
      if (answer.pending < this.pending) this.slow = 0;
      this.pending = answer.pending;
      if (answer.text === null) return;
      this.slow = answer.seconds < MAX_SECONDS ? 0 : this.slow + 1;
      this.pauseEnd = performance.now() + 1000 * answer.seconds;
      this.onText(answer.text);
    } catch (error) {
      this.failure ??= error;
    }
  }
}

/** Returns blocks as one. */
export function joined(blocks: Float32Array[]): Float32Array {
  const samples = new Float32Array(blocks.reduce((count, { length }) => count + length, 0));
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}
