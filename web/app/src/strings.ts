// What the page says, in the languages that it has.
import { createContext } from "preact";
import { useContext } from "preact/hooks";

import en from "./strings/en.json";
import kk from "./strings/kk.json";
import ru from "./strings/ru.json";
import uk from "./strings/uk.json";

export type Key = keyof typeof en;
export type Say = (key: Key, values?: Record<string, string>) => string;

const STRINGS = { en, uk, ru, kk } satisfies Record<string, Record<Key, string>>;
export type Language = keyof typeof STRINGS;
export const LANGUAGES = Object.keys(STRINGS) as Language[];

/** What each language is called by those who speak it. */
export const OWN_NAMES: Record<Language, string> = {
  en: "English",
  uk: "Українська",
  ru: "Русский",
  kk: "Қазақша",
};
const NAMES: Record<Language, Key> = { en: "languageEn", uk: "languageUk", ru: "languageRu", kk: "languageKk" };

/** Returns whether the page has a language. */
export function isLanguage(code: string): code is Language {
  return LANGUAGES.some((language) => language === code);
}

/** Texts, numbers and dates of one language. */
export class Speaker {
  // Chromium does not know how Kazakh writes numbers and dates, which is as Russian does.
  private readonly locale: string;
  constructor(readonly language: Language) {
    this.locale = language === "kk" ? "ru" : language;
  }

  /** Returns the text with a key, where {names} are replaced by values. */
  say: Say = (key, values = {}) =>
    STRINGS[this.language][key].replace(/\{(\w+)\}/g, (_, name: string) => values[name] ?? "");

  /** Returns a number with as many digits after the point. */
  number(value: number, digits: number): string {
    const options = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return new Intl.NumberFormat(this.locale, options).format(value);
  }

  percent(share: number): string {
    return new Intl.NumberFormat(this.locale, { style: "percent" }).format(share);
  }

  seconds(value: number): string {
    return this.say("seconds", { n: this.number(value, 1) });
  }

  /** Returns a date and time, given as milliseconds since 1970. */
  date(milliseconds: number): string {
    const dateStyle = this.language === "kk" ? "short" : "medium"; // The short one has no words.
    return new Intl.DateTimeFormat(this.locale, { dateStyle, timeStyle: "short" }).format(milliseconds);
  }

  /** Returns the name of a language, such as `uk`. */
  languageName(code: string): string {
    return isLanguage(code) ? this.say(NAMES[code]) : code;
  }
}

/** Returns the first language of the browser that the page has, or English. */
export function browserLanguage(): Language {
  for (const name of navigator.languages) {
    const code = name.split("-")[0] ?? "";
    if (isLanguage(code)) return code;
  }
  return "en";
}

export const SpeakerContext = createContext(new Speaker("en"));

export function useSpeaker(): Speaker {
  return useContext(SpeakerContext);
}
