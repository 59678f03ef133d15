// From a recording to its text: on this device, on the server, or on both.
import type { Recogniser, Segment } from "../../engine/src/index.js";
import * as delivery from "./delivery.js";
import * as history from "./history.js";
import type { ModelInfo } from "./models.js";
import { isForServer, isUnsure, knows } from "./policy.js";
import { type Problem, problemOf } from "./problem.js";
import * as server from "./server.js";
import { settings } from "./settings.js";
import { asStored } from "./wav.js";

export interface Tools {
  recogniser: Recogniser;
  model: ModelInfo;
  /** Called when the server is asked. */
  onServer: () => void;
  /** Called for each piece of a long recording. */
  onSegment: (segment: Segment) => void;
}

export interface Result {
  entry: history.Entry;
  /** What failed, though there may be a text. */
  problem: Problem | undefined;
}

/** Returns a new entry, which has no text yet. */
export function created(seconds: number): history.Entry {
  return {
    id: history.newId(),
    created: Date.now(),
    seconds,
    spoken: settings().spoken,
    text: "",
    segments: [],
    place: null,
    model: "",
    confidence: 1,
    isCorrected: false,
    isWanted: false,
    isSent: false,
    refusal: null,
    learning: "no",
    isDeleted: false,
  };
}

/** Finds the text of samples and of their file; a recording that is not kept yet is kept first. */
export function dictate(
  first: history.Entry,
  samples: Float32Array,
  wav: Blob,
  { recogniser, model, onServer, onSegment }: Tools,
): Promise<Result> {
  const { id, seconds, spoken } = first;
  const { policy } = settings();
  const isWanted = isForServer(policy, model, spoken, seconds);
  let entry: history.Entry = { ...first, isWanted, isCorrected: false, refusal: null };
  let problem: Problem | undefined;

  /** Changes the entry, which may not have been kept. */
  async function save(change: history.Change): Promise<void> {
    entry = (await history.update(id, change)) ?? { ...entry, ...change(entry) };
  }
  async function attempted(work: () => Promise<void>): Promise<void> {
    await work().catch((cause: unknown) => (problem ??= problemOf(cause)));
  }
  async function onDevice(): Promise<void> {
    const { text, segments, confidence } = await recogniser.transcribed(asStored(samples), { onSegment });
    await save(() => ({ text, segments, confidence, place: "device", model: model.name }));
  }
  async function onTheServer(): Promise<void> {
    onServer();
    try {
      await save(delivery.texts(await server.transcribe({ wav, seconds, spoken })));
    } catch (cause) {
      const { key, detail } = problemOf(cause);
      if (!server.isLater(problemOf(cause))) await save(() => ({ refusal: { key, detail } }));
      throw cause;
    }
  }

  return delivery.locked(id, async () => {
    const { isWanted, isCorrected, refusal } = entry;
    const isKept = await history.update(id, () => ({ isWanted, isCorrected, refusal }));
    if (!isKept) await attempted(() => history.add(entry, wav));
    if (!entry.isWanted) await attempted(onDevice);
    if (entry.place === "device" && isUnsure(policy, entry.confidence)) await save(() => ({ isWanted: true }));
    if (entry.isWanted) await attempted(onTheServer);
    // Until the server does it, there is the text of the device.
    if (entry.place === null && knows(model, spoken)) await attempted(onDevice);
    return { entry, problem };
  });
}
