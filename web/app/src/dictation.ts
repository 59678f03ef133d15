// From a recording to its text: on this device, on the server, or on both.
import type { Recogniser, Segment, Stream } from "../../engine/src/index.js";
import * as delivery from "./delivery.js";
import * as history from "./history.js";
import type { ModelInfo } from "./models.js";
import { isForServer, isUnsure, knows } from "./policy.js";
import { type Problem, problemOf } from "./problem.js";
import * as server from "./server.js";
import { settings } from "./settings.js";
import { decodeWav } from "./wav.js";

export interface Tools {
  recogniser: Recogniser;
  model: ModelInfo;
  /** What has heard the same recording while it was spoken. */
  live: Stream | undefined;
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

/** Returns whether text is shown while somebody speaks, which only this device can do. */
export function isLive(model: ModelInfo): boolean {
  const { policy, spoken } = settings();
  return !isForServer(policy, model, spoken, 0) && knows(model, spoken);
}

/** Finds the text of a recording, which is kept first if it is not yet. */
export function dictate(
  first: history.Entry,
  wav: Blob,
  { recogniser, model, live, onServer, onSegment }: Tools,
): Promise<Result> {
  const { id, seconds } = first;
  const { policy, spoken } = settings(); // They may have changed since it was recorded.
  const fresh = {
    spoken,
    isWanted: isForServer(policy, model, spoken, seconds),
    isCorrected: false,
    refusal: null,
  };
  let entry: history.Entry = { ...first, ...fresh };
  let problem: Problem | undefined;

  /** Changes the entry, which may not have been kept. */
  async function save(change: history.Change): Promise<void> {
    entry = (await history.update(id, change)) ?? { ...entry, ...change(entry) };
  }
  async function attempted(work: () => Promise<void>): Promise<void> {
    await work().catch((cause: unknown) => (problem ??= problemOf(cause)));
  }
  async function onDevice(): Promise<void> {
    const heard = live?.finish() ?? recogniser.transcribed(await decodeWav(wav), { onSegment });
    const { text, segments, confidence } = await heard;
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
    const isKept = await history.update(id, () => fresh);
    if (!isKept) await attempted(() => history.add(entry, wav));
    if (!entry.isWanted) await attempted(onDevice);
    if (entry.place === "device" && isUnsure(policy, entry.confidence)) await save(() => ({ isWanted: true }));
    if (entry.isWanted) await attempted(onTheServer);
    // Until the server does it, there is the text of the device.
    if (entry.place === null && knows(model, spoken)) await attempted(onDevice);
    return { entry, problem };
  });
}
