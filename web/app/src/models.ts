// The models that the server offers; the list is kept for when there is no network.
import { Problem } from "./problem.js";
import type { Speaker } from "./strings.js";

export interface ModelInfo {
  name: string;
  url: string;
  /** What the download is about, in bytes. */
  bytes: number;
  /** The codes of the languages that it knows. */
  languages: string[];
  /** Where the commands are that it knows, if it can know any. */
  commands: string | null;
  kind: "small" | "accurate" | "digits";
}

const LIST = "tynda.catalogue";
const KINDS = { small: "modelSmall", accurate: "modelAccurate", digits: "modelDigits" } as const;

/** Returns the models, the default one first; rejects with a Problem without any. */
export async function models(): Promise<ModelInfo[]> {
  try {
    const response = await fetch("/web/models.json");
    if (!response.ok) throw new Error(String(response.status));
    const text = await response.text();
    const found = JSON.parse(text) as ModelInfo[];
    localStorage.setItem(LIST, text);
    return found;
  } catch {
    const kept = localStorage.getItem(LIST);
    if (kept) return JSON.parse(kept) as ModelInfo[];
    throw new Problem("errorNoModels");
  }
}

/** Returns what a model is called on the page. */
export function label(speaker: Speaker, { languages, kind, bytes }: ModelInfo): string {
  return speaker.say("modelLabel", {
    language: speaker.languageName(languages[0] ?? "en"),
    kind: speaker.say(KINDS[kind]),
    size: speaker.number(bytes / 1e6, 1),
  });
}
