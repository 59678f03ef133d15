// The state of the page's one recogniser, and the model that it has.
import { useEffect, useState } from "preact/hooks";

import { Recogniser } from "../../engine/src/index.js";
import { label, type ModelInfo, models } from "./models.js";
import { type Problem, problemOf } from "./problem.js";
import type { Speaker } from "./strings.js";

type State =
  | { kind: "loading"; loaded: number; total: number | null }
  | { kind: "ready"; recogniser: Recogniser; model: ModelInfo }
  | { kind: "failed"; problem: Problem };

export interface Loaded {
  state: Exclude<State, { kind: "loading" }> | { kind: "loading"; note: string; share: number | null };
  list: ModelInfo[];
  selected: string;
}

/** Loads the model with a name, or the server's first one, and another one when the name changes. */
export function useRecogniser(wanted: string, speaker: Speaker): Loaded {
  const [list, setList] = useState<ModelInfo[]>([]);
  const [state, setState] = useState<State>({ kind: "loading", loaded: 0, total: null });
  const model = list.find(({ name }) => name === wanted) ?? list[0];
  const failed = (cause: unknown) => setState({ kind: "failed", problem: problemOf(cause) });

  useEffect(() => {
    models().then(setList, failed);
  }, []);

  useEffect(() => {
    if (!model) return;
    let isCurrent = true;
    let loaded: Recogniser | undefined;
    setState({ kind: "loading", loaded: 0, total: null });
    const onProgress = (loaded: number, total: number | null) => {
      if (isCurrent) setState({ kind: "loading", loaded, total: total ?? model.bytes });
    };
    Recogniser.load(model.url, { onProgress }).then(
      (recogniser) => {
        loaded = recogniser;
        if (isCurrent) setState({ kind: "ready", recogniser, model });
        else recogniser.close();
      },
      (error) => isCurrent && failed(error),
    );
    return () => {
      isCurrent = false;
      loaded?.close();
    };
  }, [model]);

  const selected = model?.name ?? "";
  if (state.kind !== "loading") return { state, list, selected };
  const { loaded, total } = state;
  const share = total && loaded / total;
  return { state: { kind: "loading", note: note(speaker, model, loaded, total), share }, list, selected };
}

function note(speaker: Speaker, model: ModelInfo | undefined, loaded: number, total: number | null): string {
  if (!model) return speaker.say("loading");
  const name = label(speaker, model);
  if (total === null) return speaker.say("loadingModel", { model: name });
  const megabytes = (bytes: number) => speaker.number(bytes / 1e6, 1);
  return speaker.say("loadedOf", { model: name, loaded: megabytes(loaded), total: megabytes(total) });
}
