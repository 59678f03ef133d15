// Commands of a grammar, which the worker of a Recogniser finds.
import type { SpokenCommand } from "./listening.js";
import { type Answer, commandsOf, type Request } from "./messages.js";
import { joined } from "./stream.js";

// Samples that are sent at a time.
const BLOCK = 512;

/** The sentences of a grammar, and nothing else, are recognised. */
export class Commands {
  /** See `Recogniser.commands`. */
  constructor(
    private readonly ask: (request: Request) => Promise<Answer>,
    /** Some of the sentences. */
    readonly examples: string[],
  ) {}

  /**
   * Returns the command in samples [count] of one utterance, from -1 to 1, mono at 16 kHz.
   *
   * Rejects with an EngineError where samples are not finite, and where there is not enough memory.
   */
  async recognise(samples: Float32Array): Promise<SpokenCommand> {
    return commandsOf(await this.ask({ kind: "command", id: 0, samples }))[0]!;
  }

  /**
   * Begins to listen to a recording; an earlier one must have ended. `onCommand` is called for each
   * utterance once it has ended: a command is answered after a short pause where it is certain.
   */
  listen(onCommand: (command: SpokenCommand) => void, onFailure: (error: unknown) => void): Listener {
    return new Listener(this.ask, onCommand, onFailure);
  }
}

/** Samples go in as they come; commands come out. */
export class Listener {
  private blocks: Float32Array[] = [];
  private count = 0;
  private isFirst = true;

  constructor(
    private readonly ask: (request: Request) => Promise<Answer>,
    private readonly onCommand: (command: SpokenCommand) => void,
    private readonly onFailure: (error: unknown) => void,
  ) {}

  /** Takes samples [count], from -1 to 1, mono at 16 kHz, that follow the others. */
  feed(samples: Float32Array): void {
    this.blocks.push(samples);
    this.count += samples.length;
    if (this.count >= BLOCK) void this.send(false);
  }

  /** Ends the recording, and with it the last utterance. */
  finish(): Promise<void> {
    return this.send(true);
  }

  private async send(isLast: boolean): Promise<void> {
    const samples = joined(this.blocks);
    this.blocks = [];
    this.count = 0;
    const { isFirst } = this;
    this.isFirst = false;
    try {
      const answer = await this.ask({ kind: "listen", id: 0, samples, isFirst, isLast });
      commandsOf(answer).forEach(this.onCommand);
    } catch (error) {
      this.onFailure(error);
    }
  }
}
