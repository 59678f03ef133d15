// The state of the page's one recogniser, and the model that it has.
import { useEffect, useState } from "preact/hooks";

import { Recogniser } from "../../engine/src/index.js";
import { choose, chosen, type ModelInfo, models } from "./models.js";

export type State =
  | { kind: "loading"; note: string; share: number | null }
  | { kind: "ready"; recogniser: Recogniser; model: ModelInfo }
  | { kind: "failed"; message: string };

export interface Loaded {
  state: State;
  list: ModelInfo[];
  selected: string;
  select: (name: string) => void;
}

const MEGABYTE = 1e6;

/** Loads the chosen model, and another one when it is selected. */
export function useRecogniser(): Loaded {
  const [list, setList] = useState<ModelInfo[]>([]);
  const [selected, setSelected] = useState("");
  const [state, setState] = useState<State>({ kind: "loading", note: "Loading", share: null });
  const failed = (error: unknown) =>
    setState({ kind: "failed", message: error instanceof Error ? error.message : String(error) });

  useEffect(() => {
    models().then((found) => {
      setList(found);
      setSelected((found.find(({ name }) => name === chosen()) ?? found[0])?.name ?? "");
    }, failed);
  }, []);

  useEffect(() => {
    const model = list.find(({ name }) => name === selected);
    if (!model) return;
    let isCurrent = true;
    let loaded: Recogniser | undefined;
    const note = `Loading ${model.title}`;
    setState({ kind: "loading", note, share: null });
    const onProgress = (count: number, total: number | null) => {
      const known = total ?? model.bytes;
      const size = `${(count / MEGABYTE).toFixed(1)} of ${(known / MEGABYTE).toFixed(1)} MB`;
      if (isCurrent) setState({ kind: "loading", note: `${note}, ${size}`, share: count / known });
    };
    Recogniser.load(model.url, { onProgress }).then((recogniser) => {
      loaded = recogniser;
      if (isCurrent) setState({ kind: "ready", recogniser, model });
      else recogniser.close();
    }, (error) => isCurrent && failed(error));
    return () => {
      isCurrent = false;
      loaded?.close();
    };
  }, [list, selected]);

  const select = (name: string) => {
    choose(name);
    setSelected(name);
  };
  return { state, list, selected, select };
}
