// The models that the server offers; the list is kept for when there is no network.

export interface ModelInfo {
  name: string;
  url: string;
  /** What the download is about, in bytes. */
  bytes: number;
  title: string;
}

const LIST = "tynda.models";
const CHOSEN = "tynda.model";

/** Returns the models, the default one first; rejects with an Error of one line without any. */
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
    throw new Error("the server does not answer: connect once, then no network is needed");
  }
}

/** The name of the model that was chosen, if any was. */
export function chosen(): string | null {
  return localStorage.getItem(CHOSEN);
}

export function choose(name: string): void {
  localStorage.setItem(CHOSEN, name);
}
