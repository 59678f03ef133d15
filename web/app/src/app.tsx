import { useEffect, useRef, useState } from "preact/hooks";

import { RATE } from "../../engine/src/index.js";
import { History } from "./historyview.js";
import * as history from "./history.js";
import { Recorder } from "./recorder.js";
import { useRecogniser } from "./recogniser.js";
import { asStored, encodeWav } from "./wav.js";

type Phase = "idle" | "starting" | "recording" | "recognising";

const BUTTON: Record<Phase, string> = {
  idle: "Record",
  starting: "Starting",
  recording: "Stop",
  recognising: "Recognising",
};

/** The one screen: record, read, and go back to earlier recordings. */
export function App() {
  const { state, list, selected, select } = useRecogniser();
  const [phase, setPhase] = useState<Phase>("idle");
  const [level, setLevel] = useState(0);
  const [seconds, setSeconds] = useState(0);
  const [text, setText] = useState<string | null>(null);
  const [error, setError] = useState("");
  const [entries, setEntries] = useState<history.Entry[]>([]);
  const recorder = useRef<Recorder | undefined>(undefined);

  const failed = (cause: unknown) => {
    setError(cause instanceof Error ? cause.message : String(cause));
    setPhase("idle");
  };
  useEffect(() => {
    history.entries().then(setEntries, () => setError("earlier recordings cannot be read"));
  }, []);

  async function start(maxSeconds: number) {
    setError("");
    setText(null);
    setPhase("starting");
    const onLevel = (level: number, seconds: number) => {
      setLevel(level);
      setSeconds(seconds);
    };
    recorder.current = await Recorder.start({ maxSeconds, onLevel, onFull: () => void finish() });
    setPhase("recording");
  }

  async function finish() {
    const running = recorder.current;
    recorder.current = undefined;
    if (!running || state.kind !== "ready") return;
    setPhase("recognising");
    setLevel(0);
    try {
      const recorded = await running.stop();
      // A recording whose recognition fails is kept without a text.
      const text = await state.recogniser.transcribe(asStored(recorded)).catch(failed);
      setText(text ?? null);
      setPhase("idle");
      const entry = await history.add({
        created: Date.now(),
        seconds: recorded.length / RATE,
        text: text ?? "",
        model: state.model.name,
        wav: encodeWav(recorded),
      });
      setEntries((before) => [entry, ...before]);
    } catch (cause) {
      failed(cause);
    }
  }

  function press() {
    if (phase === "recording") void finish();
    else if (phase === "idle" && state.kind === "ready")
      start(state.recogniser.maxSeconds).catch(failed);
  }

  async function remove(id: number) {
    await history.remove(id);
    setEntries((before) => before.filter((entry) => entry.id !== id));
  }

  const isBusy = phase === "starting" || phase === "recognising";
  return (
    <>
      <header>
        <h1>tynda</h1>
        <p>Speech to text on this device. Recordings and texts do not leave it.</p>
      </header>
      <main>
        <section aria-label="Recording">
          <button
            type="button"
            class={`record ${phase}`}
            onClick={press}
            disabled={state.kind !== "ready" || isBusy}
          >
            {BUTTON[phase]}
          </button>
          <div class="level" aria-hidden="true">
            <div style={{ transform: `scaleX(${phase === "recording" ? level : 0})` }} />
          </div>
          <p class="time" aria-hidden="true">
            {phase === "recording" ? `${seconds.toFixed(1)} s` : "\u00a0"}
          </p>
          <p class="status" role="status">
            {state.kind === "loading" ? state.note : phase === "recording" ? "Recording" : ""}
          </p>
          {state.kind === "loading" && state.share !== null && (
            <progress value={state.share} aria-label="Download of the model" />
          )}
          <p class="error" role="alert">
            {error || (state.kind === "failed" ? state.message : "")}
          </p>
        </section>
        <section aria-labelledby="text-title">
          <h2 id="text-title">Text</h2>
          <p id="text" aria-live="polite">
            {text === null ? "\u00a0" : text || "(no words)"}
          </p>
        </section>
        <History entries={entries} onRemove={(id) => void remove(id)} />
        <section aria-label="Settings">
          <label for="model">Model</label>
          <select
            id="model"
            value={selected}
            disabled={phase !== "idle"}
            onChange={(event) => select(event.currentTarget.value)}
          >
            {list.map(({ name, title, bytes }) => (
              <option key={name} value={name}>
                {`${title} (${(bytes / 1e6).toFixed(1)} MB)`}
              </option>
            ))}
          </select>
        </section>
      </main>
    </>
  );
}
