// Commands in speech that comes: where utterances begin and end, and what they say. The rules are
// those of tynda.commands.session, but loudness takes the place of the detector of speech.
import type { Command, Grammar } from "./grammar.js";
import { type Engine, RATE } from "./module.js";
import { joined } from "./stream.js";

/** A command, or speech that is not one, with when it was said, in seconds from the beginning. */
export interface SpokenCommand extends Command {
  start: number;
  end: number;
}

const CHUNK = 512;
// Samples before the first speech that belong to an utterance, since a word may begin softly.
const BEFORE = 16 * CHUNK;
// A noise that is shorter is not speech.
const MIN_SPEECH = 4;
// The quietest chunk of the last 3 s is the noise of the room, at least so many decibels; speech is
// louder by the first number, and silence by less than the second, or by the third below the loudest
// chunk of the utterance.
const MEMORY = Math.round((3 * RATE) / CHUNK);
const QUIETEST = -65;
const LOUDER = 12;
const HARDLY_LOUDER = 9;
const MUCH_QUIETER = 30;
// Chunks of silence that do not count, since there is silence within words, such as before a "t".
const BRIDGED = 1;

/** Follows one recording. */
export class Listening {
  private readonly levels: number[] = [];
  private rest: Float32Array = new Float32Array(0);
  private audio: Float32Array = new Float32Array(0);
  private samples = 0;
  private began = 0;
  private speech = 0;
  private silent = 0;
  private loudest = -Infinity;
  /** The highest threshold at which a pause would have given a command. */
  private best = 0;
  private hasTried = false;
  /** The sample at which the last utterance that is not a command ended. */
  private refused = -Infinity;

  constructor(
    private readonly engine: Engine,
    private readonly grammar: Grammar,
  ) {}

  /** Takes samples [count] that follow the others; returns what was said in the utterances that ended. */
  feed(samples: Float32Array): SpokenCommand[] {
    const all = joined([this.rest, samples]);
    const found: SpokenCommand[] = [];
    let at = 0;
    for (; at + CHUNK <= all.length; at += CHUNK) found.push(...this.take(all.subarray(at, at + CHUNK)));
    this.rest = all.slice(at);
    return found;
  }

  /** Ends the recording; returns what was said in the last utterance, if it had not ended. */
  finish(): SpokenCommand[] {
    const found = this.rest.length ? this.take(this.rest) : [];
    this.rest = new Float32Array(0);
    return this.speech ? [...found, ...this.end()] : found;
  }

  private take(chunk: Float32Array): SpokenCommand[] {
    const { grammar } = this;
    if (!this.speech) this.began = this.samples;
    this.measure(chunk);
    this.samples += chunk.length;
    this.audio = joined([this.audio, chunk]);
    // The audio of an utterance that is too long is no command; a part of it is enough to know.
    const most = this.speech ? grammar.seconds * RATE + CHUNK : BEFORE;
    if (this.audio.length > most) this.audio = this.audio.slice(-most);
    if (!this.speech) return [];
    const silence = ((this.silent - BRIDGED) * CHUNK) / RATE;
    if (silence >= grammar.silence) return this.end();
    if (silence < grammar.pause) {
      this.hasTried = false;
    } else if (this.speech >= MIN_SPEECH && !this.hasTried && this.isApart) {
      this.hasTried = true;
      const command = this.recognise();
      // Doubts count twice for a sentence that may still be said.
      const certainty = 2 * command.confidence - 1;
      this.best = Math.max(this.best, certainty);
      if (command.sentence !== null && certainty >= grammar.threshold && !grammar.goesOn(command.sentence))
        return this.close(command);
    }
    return [];
  }

  /** Counts the chunks of speech, and those of silence after them. */
  private measure(chunk: Float32Array): void {
    const energy = chunk.reduce((sum, x) => sum + x * x, 0) / chunk.length;
    const level = Math.max(QUIETEST, 10 * Math.log10(energy + 1e-12));
    this.levels.push(level);
    if (this.levels.length > MEMORY) this.levels.shift();
    const floor = Math.min(...this.levels);
    if (level >= Math.max(floor + LOUDER, this.loudest - MUCH_QUIETER)) {
      this.loudest = Math.max(this.loudest, level);
      this.speech++;
      this.silent = 0;
    } else if (this.speech) {
      const silence = Math.max(floor + HARDLY_LOUDER, this.loudest - MUCH_QUIETER);
      this.silent = level < silence ? this.silent + 1 : 0;
    }
  }

  private get isApart(): boolean {
    return this.began - this.refused >= this.grammar.apart * RATE;
  }

  private recognise(): Command {
    return recognised(this.engine, this.grammar, this.audio);
  }

  private end(): SpokenCommand[] {
    const nothing: Command = { sentence: null, intent: null, slots: {}, confidence: 0 };
    if (this.speech < MIN_SPEECH) {
      this.close(nothing);
      return [];
    }
    if (!this.isApart) return this.close(nothing);
    const command = this.recognise();
    const confidence = Math.max(command.confidence, command.sentence === null ? this.best : 0);
    return this.close({ ...command, confidence });
  }

  /** Begins to wait for the next utterance. */
  private close(command: Command): SpokenCommand[] {
    const [start, end] = [this.samples - this.audio.length, this.samples];
    if (this.speech >= MIN_SPEECH && command.sentence === null) this.refused = end - this.silent * CHUNK;
    this.speech = this.silent = this.best = 0;
    this.hasTried = false;
    this.loudest = -Infinity;
    this.audio = this.audio.slice(-BEFORE);
    return [{ ...command, start: start / RATE, end: end / RATE }];
  }
}

/** Returns the command in samples [count], which are one utterance; one that is too long has none. */
export function recognised(engine: Engine, grammar: Grammar, samples: Float32Array): Command {
  const max = Math.min(grammar.seconds * RATE, engine.maxSamples);
  if (samples.length > max) return { sentence: null, intent: null, slots: {}, confidence: 0 };
  return grammar.recognise(engine.logProbs(samples));
}
