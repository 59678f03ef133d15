// A recording that is recognised while it is spoken.
import { type Answer, type Request, transcript, type Transcript } from "./messages.js";
import { RATE } from "./module.js";

// The text so far is found after so much more speech.
const STEP = 0.4 * RATE;
// Where that takes longer, the whole pieces alone are recognised until the end.
const MAX_SECONDS = 0.6;

/** Samples go in as they come; the text so far, and all of it at the end, come out. */
export class Stream {
  private blocks: Float32Array[] = [];
  private count = 0;
  private isFirst = true;
  private isTextWanted = true;
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
    this.isTextWanted = false;
    await this.send();
    if (this.failure) throw this.failure;
    return transcript(await this.ask({ kind: "finish", id: 0 }));
  }

  private async run(): Promise<void> {
    while (this.count >= STEP && !this.failure) await this.send();
    this.running = undefined;
  }

  private async send(): Promise<void> {
    const samples = joined(this.blocks, this.count);
    this.blocks = [];
    this.count = 0;
    const { isFirst, isTextWanted } = this;
    this.isFirst = false;
    try {
      const answer = await this.ask({ kind: "feed", id: 0, samples, isFirst, isTextWanted });
      if (answer.kind !== "partial") return;
      if (answer.text !== null) this.onText(answer.text);
      if (answer.seconds > MAX_SECONDS) this.isTextWanted = false;
    } catch (error) {
      this.failure ??= error;
    }
  }
}

/** Returns blocks as one. */
export function joined(blocks: Float32Array[], count: number): Float32Array {
  const samples = new Float32Array(count);
  let at = 0;
  for (const block of blocks) {
    samples.set(block, at);
    at += block.length;
  }
  return samples;
}
