// What the user has chosen, on this device.
import { useEffect, useState } from "preact/hooks";

import { browserLanguage, isLanguage, type Language } from "./strings.js";

/** Where speech becomes text. Without a choice, nothing leaves the device. */
export type Policy = "device" | "device-first" | "server-first";
export const POLICIES: Policy[] = ["device", "device-first", "server-first"];

/** The language of the speech is another one, which the server detects. */
export const OTHER = "other";

export interface Settings {
  policy: Policy;
  interface: Language;
  /** The language of the speech: a code, or `OTHER`. */
  spoken: string;
  /** The name of the model on the device; the server's first one where it is empty. */
  model: string;
}

const STORED = "tynda.settings";
const CHANGED = "tynda.settings.changed";

/** Returns the settings as they are now, also where another tab has changed them. */
export function settings(): Settings {
  const language = browserLanguage();
  const found: Settings = { policy: "device", interface: language, spoken: language, model: "" };
  try {
    Object.assign(found, JSON.parse(localStorage.getItem(STORED) ?? "{}"));
  } catch {
    // Settings that cannot be read are those of a new visitor.
  }
  if (!POLICIES.includes(found.policy)) found.policy = "device";
  if (!isLanguage(found.interface)) found.interface = language;
  return found;
}

export function change(changes: Partial<Settings>): void {
  localStorage.setItem(STORED, JSON.stringify({ ...settings(), ...changes }));
  dispatchEvent(new Event(CHANGED));
}

/** Calls a function after each change, in whatever tab; returns the function that ends it. */
export function onChange(changed: () => void): () => void {
  for (const name of [CHANGED, "storage"]) addEventListener(name, changed);
  return () => {
    for (const name of [CHANGED, "storage"]) removeEventListener(name, changed);
  };
}

/** Returns the settings, and renders again when they change. */
export function useSettings(): Settings {
  const [found, set] = useState(settings);
  useEffect(() => onChange(() => set(settings())), []);
  return found;
}
