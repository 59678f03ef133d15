// The sentences of a grammar, with the search of a CTC model for them, as
// `tynda commands GRAMMAR --export FILE` writes them. It is that of tynda.heads.ctc.commands and
// tynda.commands.graph, whose numbers are float32 as well.
import { EngineError } from "./errors.js";
import type { LogProbs } from "./module.js";

/** What was said, or that it was no command. */
export interface Command {
  /** The words of the command; null where the utterance is not a command. */
  sentence: string | null;
  intent: string | null;
  slots: Record<string, unknown>;
  /** From 0 to 1; that of the most probable sentence where the utterance is not a command. */
  confidence: number;
}

/** The contents of the file. */
interface Contents {
  format: string;
  threshold: number;
  seconds: number;
  pause: number;
  silence: number;
  apart: number;
  search: {
    blank: number;
    vocab: number;
    /** The checksum of the model's tokens, see `Engine.tokenSum`. */
    tokens: number;
    texts: Record<string, string>;
    paths: Record<"tokens" | "targets" | "sources" | "ends", number[]>;
  };
  words: {
    /** For each state: target, words, and slots with their values. */
    arcs: [number, string[], [string, unknown][]][][];
    ends: [state: number, sentence: number][];
    sentences: [intent: string | null, slots: Record<string, unknown>][];
  };
  examples: string[];
}

const FORMAT = "tynda-commands 2";

/** A grammar for one model. */
export class Grammar {
  private readonly ends: Map<number, number>;
  /** The first arc to each state but the beginning, and the end of the last ones. */
  private readonly first: Int32Array;

  private constructor(private readonly contents: Contents) {
    const { tokens, targets } = contents.search.paths;
    this.ends = new Map(contents.words.ends);
    this.first = new Int32Array(tokens.length + 1);
    for (const target of targets) this.first[target + 1]!++;
    for (let state = 0; state < tokens.length; state++) this.first[state + 1]! += this.first[state]!;
  }

  /**
   * Reads a file for a model whose tokens have a checksum. Throws an EngineError for that of another
   * model, and for anything else.
   */
  static read(text: string, tokenSum: number): Grammar {
    let grammar: Grammar | undefined;
    try {
      const contents = JSON.parse(text) as Contents;
      if (contents.format === FORMAT) grammar = new Grammar(contents);
    } catch {
      // It is reported below.
    }
    if (!grammar) throw new EngineError("damaged", "the file has no commands of tynda, or those of another version");
    if (grammar.contents.search.tokens !== tokenSum)
      throw new EngineError("damaged", "the commands were exported for another model");
    return grammar;
  }

  /** Seconds of silence after which a certain command, and any utterance, ends. */
  get pause(): number {
    return this.contents.pause;
  }
  get silence(): number {
    return this.contents.silence;
  }
  /** Seconds of silence before a command that follows an utterance that is not one. */
  get apart(): number {
    return this.contents.apart;
  }
  /** Seconds of the longest command. */
  get seconds(): number {
    return this.contents.seconds;
  }
  get threshold(): number {
    return this.contents.threshold;
  }
  /** The first sentence of each template, of which there may be more. */
  get examples(): string[] {
    return this.contents.examples;
  }

  /** Returns what was said. */
  recognise({ values, frames }: LogProbs): Command {
    const { vocab, texts } = this.contents.search;
    const path = this.best(values, frames);
    if (!path) return { sentence: null, intent: null, slots: {}, confidence: 0 };
    let filler = 0;
    for (let t = 0; t < frames; t++) filler += highest(values.subarray(t * vocab, (t + 1) * vocab));
    const confidence = Math.exp(Math.min(0, path.score - filler) / path.tokens.length);
    const text = path.tokens.map((token) => texts[token]).join("");
    const found = confidence < this.threshold ? null : this.meaning(wordsOf(text));
    return { sentence: null, intent: null, slots: {}, ...found, confidence };
  }

  /** Returns whether a longer sentence begins with the words of one. */
  goesOn(sentence: string): boolean {
    const words = wordsOf(sentence);
    return this.walk(words, [], (state, position) => {
      const rest = words.slice(position);
      const isBegun = (own: string[]) => own.length > rest.length && rest.every((word, i) => word === own[i]);
      return this.contents.words.arcs[state]!.some(([, own]) => isBegun(own));
    });
  }

  private meaning(words: string[]): Omit<Command, "confidence"> | null {
    const tags: [string, unknown][] = [];
    let end: number | undefined;
    const isFound = this.walk(words, tags, (state, position) => {
      end = this.ends.get(state);
      return position === words.length && end !== undefined;
    });
    if (!isFound) return null;
    const [intent, slots] = this.contents.words.sentences[end!]!;
    return { sentence: words.join(" "), intent, slots: { ...slots, ...Object.fromEntries(tags) } };
  }

  /**
   * Follows words through the grammar until a function of a state and a number of words returns
   * true; `tags` are then the slots on the way. The paths come in the order of the grammar.
   */
  private walk(
    words: string[],
    tags: [string, unknown][],
    isDone: (state: number, position: number) => boolean,
  ): boolean {
    const pending: [number, number, [string, unknown][]][] = [[0, 0, []]];
    const seen = new Set<number>();
    for (let next; (next = pending.pop()); ) {
      const [state, position, before] = next;
      const key = state * (words.length + 1) + position;
      if (seen.has(key)) continue;
      seen.add(key);
      if (isDone(state, position)) {
        tags.push(...before);
        return true;
      }
      for (const [target, own, slots] of [...this.contents.words.arcs[state]!].reverse())
        if (own.every((word, i) => word === words[position + i]))
          pending.push([target, position + own.length, [...before, ...slots]]);
    }
    return false;
  }

  /** The best path through the grammar [frames], or null where the frames are too few for any. */
  private best(values: Float32Array, frames: number): { tokens: number[]; score: number } | null {
    const { blank, vocab, paths } = this.contents.search;
    const { tokens, sources, ends } = paths;
    const { first } = this;
    const count = tokens.length;
    // Scores before the first frame and after each: first those after a token, then after its blanks.
    const scores = new Float32Array((frames + 1) * 2 * count).fill(-Infinity);
    const after = (t: number, isBlank: 0 | 1) => {
      const at = (2 * t + isBlank) * count;
      return scores.subarray(at, at + count);
    };
    // A repeated token needs a blank in between.
    const fromToken = (token: Float32Array, source: number, state: number) =>
      tokens[source] === tokens[state] ? -Infinity : token[source]!;
    scores[count] = 0;
    for (let t = 0; t < frames; t++) {
      const row = values.subarray(t * vocab, (t + 1) * vocab);
      const [token, rest] = [after(t, 0), after(t, 1)];
      const [nextToken, nextRest] = [after(t + 1, 0), after(t + 1, 1)];
      for (let state = 0; state < count; state++) {
        let score = token[state]!;
        for (let arc = first[state]!; arc < first[state + 1]!; arc++) {
          const source = sources[arc]!;
          score = Math.max(score, rest[source]!, fromToken(token, source, state));
        }
        nextToken[state] = state ? score + row[tokens[state]!]! : -Infinity;
        nextRest[state] = Math.max(token[state]!, rest[state]!) + row[blank]!;
      }
    }
    let [state, score] = [0, -Infinity];
    let isBlank: 0 | 1 = 0;
    for (const side of [0, 1] as const)
      for (const end of ends) {
        const found = after(frames, side)[end]!;
        if (found > score) [state, isBlank, score] = [end, side, found];
      }
    if (frames === 0 || score === -Infinity) return null;
    const found: number[] = [];
    for (let t = frames - 1; t >= 0; t--) {
      const [token, rest] = [after(t, 0), after(t, 1)];
      if (isBlank) {
        isBlank = rest[state]! >= token[state]! ? 1 : 0;
        continue;
      }
      let [before, best] = [state, token[state]!];
      let side: 0 | 1 = isBlank;
      for (const each of [0, 1] as const)
        for (let arc = first[state]!; arc < first[state + 1]!; arc++) {
          const source = sources[arc]!;
          const score = each ? rest[source]! : fromToken(token, source, state);
          if (score > best) [before, side, best] = [source, each, score];
        }
      if (best === token[state]) continue;
      found.push(tokens[state]!);
      [state, isBlank] = [before, side];
    }
    return { tokens: found.reverse(), score };
  }
}

function highest(row: Float32Array): number {
  return row.reduce((a, b) => Math.max(a, b), -Infinity);
}

/** The words of a text; some models write capitals only. */
function wordsOf(text: string): string[] {
  return text.toLowerCase().split(/\s+/).filter(Boolean);
}
