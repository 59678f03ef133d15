import { useEffect, useRef, useState } from "preact/hooks";

import type { Entry } from "./history.js";

interface Props {
  entries: Entry[];
  onRemove: (id: number) => void;
}

/** Earlier recordings: play, copy, delete. */
export function History({ entries, onRemove }: Props) {
  const [note, setNote] = useState("");
  const playing = useRef<{ audio: HTMLAudioElement; url: string } | undefined>(undefined);

  function stop() {
    playing.current?.audio.pause();
    if (playing.current) URL.revokeObjectURL(playing.current.url);
    playing.current = undefined;
  }
  useEffect(() => stop, []);

  function play(entry: Entry) {
    stop();
    const url = URL.createObjectURL(entry.wav);
    playing.current = { audio: new Audio(url), url };
    playing.current.audio.play().catch(() => setNote("The recording cannot be played"));
  }
  async function copy(entry: Entry) {
    await navigator.clipboard.writeText(entry.text).then(
      () => setNote("Copied"),
      () => setNote("The browser does not allow to copy"),
    );
  }

  return (
    <section aria-labelledby="history-title">
      <h2 id="history-title">History</h2>
      <p class="status" role="status">
        {note}
      </p>
      {entries.length === 0 && <p>No recordings yet.</p>}
      <ol class="history">
        {entries.map((entry) => {
          const about = entry.text || "(no words)";
          const when = new Date(entry.created).toLocaleString();
          return (
            <li key={entry.id}>
              <p class="said">{about}</p>
              <p class="when">{`${when}, ${entry.seconds.toFixed(1)} s, ${entry.model}`}</p>
              <div class="actions">
                <button type="button" aria-label={`Play: ${about}`} onClick={() => play(entry)}>
                  Play
                </button>
                <button type="button" aria-label={`Copy: ${about}`} onClick={() => void copy(entry)}>
                  Copy
                </button>
                <button
                  type="button"
                  aria-label={`Delete: ${about}`}
                  onClick={() => onRemove(entry.id)}
                >
                  Delete
                </button>
              </div>
            </li>
          );
        })}
      </ol>
    </section>
  );
}
