import { useEffect, useRef, useState } from "preact/hooks";

import { textOf } from "./entrytext.js";
import { EntryView } from "./entryview.js";
import * as history from "./history.js";
import type { Policy } from "./settings.js";
import { useSpeaker } from "./strings.js";

interface Props {
  entries: history.Entry[];
  policy: Policy;
  /** Recognises an entry again; null while that is not possible. */
  onAgain: ((entry: history.Entry) => void) | null;
}

/** Earlier recordings, and a search in their texts. */
export function HistoryView({ entries, policy, onAgain }: Props) {
  const { say } = useSpeaker();
  const [note, setNote] = useState("");
  const [wanted, setWanted] = useState("");
  const playing = useRef<{ audio: HTMLAudioElement; url: string } | undefined>(undefined);

  function stop() {
    playing.current?.audio.pause();
    if (playing.current) URL.revokeObjectURL(playing.current.url);
    playing.current = undefined;
  }
  useEffect(() => stop, []);

  async function play({ id }: history.Entry) {
    stop();
    try {
      const url = URL.createObjectURL(await history.recording(id));
      playing.current = { audio: new Audio(url), url };
      await playing.current.audio.play();
    } catch (cause) {
      if (!(cause instanceof DOMException && cause.name === "AbortError")) setNote(say("cannotPlay"));
    }
  }

  const asFound = (text: string) => text.toLocaleLowerCase().normalize();
  const found = entries.filter(({ text }) => asFound(text).includes(asFound(wanted.trim())));
  return (
    <section aria-labelledby="history-title">
      <h2 id="history-title">{say("history")}</h2>
      {entries.length > 0 && (
        <input
          type="search"
          aria-label={say("search")}
          placeholder={say("search")}
          value={wanted}
          onInput={(event) => setWanted(event.currentTarget.value)}
        />
      )}
      <p class="status" role="status">
        {note}
      </p>
      {found.length === 0 && <p>{say(entries.length ? "nothingFound" : "noRecordings")}</p>}
      <ol class="history">
        {found.map((entry) => (
          <EntryView
            key={entry.id}
            entry={entry}
            about={textOf(entry, say)}
            policy={policy}
            onPlay={() => void play(entry)}
            onAgain={onAgain && (() => onAgain(entry))}
            onNote={setNote}
          />
        ))}
      </ol>
    </section>
  );
}
