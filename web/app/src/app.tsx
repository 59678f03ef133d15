import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { RATE } from "../../engine/src/index.js";
import { created, dictate, type Result } from "./dictation.js";
import { madeBy, textOf } from "./entrytext.js";
import * as history from "./history.js";
import { HistoryView } from "./historyview.js";
import { Problem, problemOf, said } from "./problem.js";
import { Recorder } from "./recorder.js";
import { useRecogniser } from "./recogniser.js";
import * as server from "./server.js";
import { type Policy, useSettings } from "./settings.js";
import { SettingsView } from "./settingsview.js";
import { type Key, Speaker, SpeakerContext } from "./strings.js";
import { decodeWav, encodeWav } from "./wav.js";

type Phase = "idle" | "starting" | "recording" | "recognising" | "askingServer";

const BUTTON: Record<Phase, Key> = {
  idle: "record",
  starting: "starting",
  recording: "stop",
  recognising: "recognising",
  askingServer: "askingServer",
};
const PROMISE: Record<Policy, Key> = {
  device: "onDeviceOnly",
  "device-first": "onDeviceFirst",
  "server-first": "onServerFirst",
};
const MAX_SECONDS = 600;

/** The one screen: record, read, correct, and go back to earlier recordings. */
export function App() {
  const settings = useSettings();
  const speaker = useMemo(() => new Speaker(settings.interface), [settings.interface]);
  const { say } = speaker;
  const { state, list, selected } = useRecogniser(settings.model, speaker);
  const [phase, setPhase] = useState<Phase>("idle");
  const [level, setLevel] = useState(0);
  const [seconds, setSeconds] = useState(0);
  const [shown, setShown] = useState<history.Entry | null>(null);
  const [growing, setGrowing] = useState("");
  const [problem, setProblem] = useState<Problem | null>(null);
  const [entries, setEntries] = useState<history.Entry[]>([]);
  const recorder = useRef<Recorder | undefined>(undefined);

  const failed = (cause: unknown) => {
    setProblem(problemOf(cause));
    setPhase("idle");
  };
  useEffect(() => {
    document.documentElement.lang = speaker.language;
  }, [speaker]);
  useEffect(() => {
    const read = () => history.entries().then(setEntries, () => setProblem(new Problem("errorHistory")));
    void read();
    return history.onChange(() => void read());
  }, []);

  async function start() {
    setProblem(null);
    setShown(null);
    setPhase("starting");
    const onLevel = (level: number, seconds: number) => {
      setLevel(level);
      setSeconds(seconds);
    };
    const onFull = () => void finish();
    recorder.current = await Recorder.start({ maxSeconds: MAX_SECONDS, onLevel, onFull });
    setPhase("recording");
  }

  async function finish() {
    const running = recorder.current;
    recorder.current = undefined;
    if (!running) return;
    setLevel(0);
    try {
      const recorded = await running.stop();
      await recognise(created(recorded.length / RATE), recorded, encodeWav(recorded));
    } catch (cause) {
      failed(cause);
    }
  }

  async function recognise(entry: history.Entry, samples: Float32Array, wav: Blob) {
    if (state.kind !== "ready") return;
    setGrowing("");
    setShown(null);
    setProblem(null);
    setPhase("recognising");
    const onServer = () => setPhase("askingServer");
    const onSegment = ({ text }: { text: string }) => setGrowing((before) => `${before} ${text}`);
    const { recogniser, model } = state;
    const result: Result = await dictate(entry, samples, wav, { recogniser, model, onServer, onSegment });
    setShown(result.entry);
    setGrowing("");
    setProblem(result.problem ?? null);
    setPhase("idle");
  }

  async function again(entry: history.Entry) {
    try {
      const wav = await history.recording(entry.id);
      await recognise(entry, await decodeWav(wav), wav);
    } catch (cause) {
      failed(cause);
    }
  }

  function press() {
    if (phase === "recording") void finish();
    else if (phase === "idle" && state.kind === "ready") start().catch(failed);
  }

  const isBusy = phase !== "idle" && phase !== "recording";
  // The entry may have changed since: another text from the server, or a correction.
  const entry = shown && (entries.find(({ id }) => id === shown.id) ?? shown);
  const shownProblem = problem ?? (state.kind === "failed" ? state.problem : null);
  return (
    <SpeakerContext.Provider value={speaker}>
      <header>
        <h1>tynda</h1>
        <p>{say(PROMISE[settings.policy], { server: server.name })}</p>
      </header>
      <main>
        <section aria-label={say("recording")}>
          <button
            type="button"
            class={`record ${phase}`}
            onClick={press}
            disabled={state.kind !== "ready" || isBusy}
          >
            {say(BUTTON[phase])}
          </button>
          <div class="level" aria-hidden="true">
            <div style={{ transform: `scaleX(${phase === "recording" ? level : 0})` }} />
          </div>
          <p class="time" aria-hidden="true">
            {phase === "recording" ? speaker.seconds(seconds) : "\u00a0"}
          </p>
          <p class="status" role="status">
            {state.kind === "loading" ? state.note : phase === "recording" ? say("recording") : ""}
          </p>
          {state.kind === "loading" && state.share !== null && (
            <progress value={state.share} aria-label={say("download")} />
          )}
          <p class="error" role="alert">
            {shownProblem && said(say, shownProblem)}
          </p>
        </section>
        <section aria-labelledby="text-title">
          <h2 id="text-title">{say("text")}</h2>
          <p id="text" aria-live="polite">
            {entry ? textOf(entry, say) : growing.trim() || "\u00a0"}
          </p>
          <p id="place">{entry?.place ? madeBy(entry, speaker) : "\u00a0"}</p>
        </section>
        <HistoryView
          entries={entries.filter(({ isDeleted }) => !isDeleted)}
          policy={settings.policy}
          onAgain={phase === "idle" && state.kind === "ready" ? (entry) => void again(entry) : null}
        />
        <SettingsView settings={settings} models={list} selected={selected} isBusy={phase !== "idle"} />
      </main>
    </SpeakerContext.Provider>
  );
}
