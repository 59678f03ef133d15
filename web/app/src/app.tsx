import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { RATE, type Recogniser, type Stream } from "../../engine/src/index.js";
import { CommandsView } from "./commandsview.js";
import { created, dictate, isLive } from "./dictation.js";
import { madeBy, textOf } from "./entrytext.js";
import * as history from "./history.js";
import { HistoryView } from "./historyview.js";
import type { ModelInfo } from "./models.js";
import { Problem, problemOf, said } from "./problem.js";
import { Recorder } from "./recorder.js";
import { useRecogniser } from "./recogniser.js";
import * as server from "./server.js";
import { type Policy, useSettings } from "./settings.js";
import { SettingsView } from "./settingsview.js";
import { type Key, Speaker, SpeakerContext } from "./strings.js";
import { asStored, encodeWav } from "./wav.js";

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
  const [isListening, setListening] = useState(false);
  const [entries, setEntries] = useState<history.Entry[]>([]);
  const recorder = useRef<Recorder | undefined>(undefined);
  const live = useRef<Stream | undefined>(undefined);

  const failed = (cause: unknown) => {
    setProblem(problemOf(cause));
    setPhase("idle");
  };
  useEffect(() => {
    document.documentElement.lang = speaker.language;
  }, [speaker]);
  useEffect(() => {
    let last = 0; // An earlier reading may end later, and is out of date then.
    const read = () => {
      const mine = ++last;
      history.entries().then(
        (found) => mine === last && setEntries(found),
        () => setProblem(new Problem("errorHistory")),
      );
    };
    read();
    return history.onChange(read);
  }, []);

  function cleared() {
    setProblem(null);
    setShown(null);
    setGrowing("");
  }

  async function start({ recogniser, model }: { recogniser: Recogniser; model: ModelInfo }) {
    cleared();
    setPhase("starting");
    const stream = isLive(model) ? recogniser.stream(setGrowing) : undefined;
    live.current = undefined;
    recorder.current = await Recorder.start({
      maxSeconds: MAX_SECONDS,
      isKept: true,
      onLevel: (level, seconds) => {
        setLevel(level);
        setSeconds(seconds);
      },
      onSamples: (samples) => {
        stream?.feed(asStored(samples));
        live.current = stream;
      },
      onFull: () => void finish(),
    });
    setPhase("recording");
  }

  async function finish() {
    const running = recorder.current;
    recorder.current = undefined;
    if (!running) return;
    setLevel(0);
    setPhase("recognising");
    try {
      const recorded = await running.stop();
      await recognise(created(recorded.length / RATE), encodeWav(recorded));
    } catch (cause) {
      failed(cause);
    }
  }

  /** Finds the text of a recording, by what has heard it live if there is that. */
  async function recognise(entry: history.Entry, wav: Blob) {
    if (state.kind !== "ready") return;
    setPhase("recognising");
    const { entry: result, problem } = await dictate(entry, wav, {
      ...state,
      live: live.current,
      onServer: () => setPhase("askingServer"),
      onSegment: ({ text }) => setGrowing((before) => `${before} ${text}`),
    });
    setShown(result);
    // The entry may have been read before it had its text.
    setEntries((known) => known.map((each) => (each.id === result.id ? result : each)));
    setProblem(problem ?? null);
    setPhase("idle");
  }

  async function again(entry: history.Entry) {
    cleared();
    live.current = undefined;
    try {
      await recognise(entry, await history.recording(entry.id));
    } catch (cause) {
      failed(cause);
    }
  }

  function press() {
    if (phase === "recording") void finish();
    else if (phase === "idle" && !isListening && state.kind === "ready") start(state).catch(failed);
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
            disabled={isListening || (phase === "idle" && state.kind !== "ready")}
            aria-disabled={isBusy} // It keeps the focus, which it would lose if it were disabled.
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
          <p id="text" aria-live={phase === "recording" ? "off" : "polite"}>
            {entry ? textOf(entry, say) : growing.trim() || "\u00a0"}
          </p>
          <p id="place">{entry?.place ? madeBy(entry, speaker) : "\u00a0"}</p>
        </section>
        <HistoryView
          entries={entries.filter(({ isDeleted }) => !isDeleted)}
          policy={settings.policy}
          onAgain={phase === "idle" && state.kind === "ready" ? (entry) => void again(entry) : null}
        />
        {state.kind === "ready" && (
          <CommandsView
            key={state.model.name}
            recogniser={state.recogniser}
            model={state.model}
            isBusy={phase !== "idle"}
            onListening={setListening}
            onProblem={(cause) => setProblem(cause === null ? null : problemOf(cause))}
          />
        )}
        <SettingsView
          settings={settings}
          models={list}
          selected={selected}
          isBusy={phase !== "idle" || isListening}
        />
      </main>
    </SpeakerContext.Provider>
  );
}
