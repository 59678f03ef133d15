import { useEffect, useRef, useState } from "preact/hooks";

import type { Commands, Listener, Recogniser, SpokenCommand } from "../../engine/src/index.js";
import type { ModelInfo } from "./models.js";
import { Problem } from "./problem.js";
import { Recorder } from "./recorder.js";
import { useSpeaker } from "./strings.js";

interface Props {
  recogniser: Recogniser;
  model: ModelInfo;
  /** Whether something else uses the microphone or the model. */
  isBusy: boolean;
  onListening: (isListening: boolean) => void;
  /** Called with what went wrong, or with null where it is over. */
  onProblem: (cause: unknown) => void;
}

interface Running {
  recorder: Recorder;
  listener: Listener;
}

const SHOWN = 10;

/** Commands of the server's grammar, which are recognised while somebody speaks, on this device. */
export function CommandsView({ recogniser, model, isBusy, onListening, onProblem }: Props) {
  const { say } = useSpeaker();
  const [commands, setCommands] = useState<Commands | null>(null);
  const [isListening, setListening] = useState(false);
  const [heard, setHeard] = useState<SpokenCommand[]>([]);
  const running = useRef<Running | undefined>(undefined);
  const isChanging = useRef(false);

  useEffect(() => {
    let isCurrent = true;
    if (model.commands)
      recogniser.commands(model.commands).then(
        (found) => isCurrent && setCommands(found),
        (cause) => isCurrent && onProblem(cause),
      );
    return () => {
      isCurrent = false;
      void running.current?.recorder.stop();
    };
  }, [recogniser]);

  async function start(commands: Commands) {
    onProblem(null);
    const onCommand = (command: SpokenCommand) => setHeard((before) => [command, ...before].slice(0, SHOWN));
    const listener = commands.listen(onCommand, onProblem);
    const recorder = await Recorder.start({
      maxSeconds: Infinity,
      isKept: false,
      onLevel: () => undefined,
      onSamples: (samples) => listener.feed(samples),
      onFull: () => undefined,
    });
    if (!recorder.isLive) {
      await recorder.stop();
      throw new Problem("errorRate");
    }
    running.current = { recorder, listener };
  }
  async function stop({ recorder, listener }: Running) {
    running.current = undefined;
    await recorder.stop();
    await listener.finish();
  }
  /** Starts or stops; what is pressed meanwhile does nothing. */
  async function press(commands: Commands) {
    if (isChanging.current) return;
    isChanging.current = true;
    try {
      await (running.current ? stop(running.current) : start(commands));
    } catch (cause) {
      onProblem(cause);
    }
    isChanging.current = false;
    setListening(running.current !== undefined);
    onListening(running.current !== undefined);
  }

  const lang = model.languages[0];
  return (
    <section aria-labelledby="commands-title">
      <h2 id="commands-title">{say("commands")}</h2>
      {model.commands ? (
        <>
          <div class="actions">
            <button type="button" onClick={() => commands && void press(commands)} disabled={!commands || isBusy}>
              {say(isListening ? "stopListening" : "listen")}
            </button>
          </div>
          <details>
            <summary>{say("commandExamples")}</summary>
            <ul lang={lang}>
              {commands?.examples.map((example) => (
                <li key={example}>{example}</li>
              ))}
            </ul>
          </details>
        </>
      ) : (
        <p class="note">{say("noCommands")}</p>
      )}
      <ol id="heard" class="history" aria-live="polite">
        {heard.map((each) => (
          <CommandView key={each.end} command={each} lang={lang} />
        ))}
      </ol>
    </section>
  );
}

/** What was said, what it means, and how sure that is. */
function CommandView({ command, lang }: { command: SpokenCommand; lang: string | undefined }) {
  const speaker = useSpeaker();
  const { sentence, intent, slots, confidence } = command;
  const values = Object.entries(slots).map(([name, value]) => `${name} = ${String(value)}`);
  return (
    <li>
      <p class="said" lang={sentence === null ? undefined : lang}>
        {sentence ?? speaker.say("noCommand")}
      </p>
      <p class="when">{[...(intent ? [intent] : []), ...values, speaker.percent(confidence)].join(", ")}</p>
    </li>
  );
}
