import { useEffect, useRef, useState } from "preact/hooks";

import { isDue } from "./delivery.js";
import { madeBy } from "./entrytext.js";
import * as history from "./history.js";
import { problemOf, said } from "./problem.js";
import * as server from "./server.js";
import type { Policy } from "./settings.js";
import { type Key, useSpeaker } from "./strings.js";
import { srt } from "./subtitles.js";

interface Props {
  entry: history.Entry;
  /** What tells the entry from others. */
  about: string;
  policy: Policy;
  onPlay: () => void;
  onAgain: (() => void) | null;
  onNote: (note: string) => void;
}

/** A recording: its text, where that was made, and what can be done with them. */
export function EntryView({ entry, about, policy, onPlay, onAgain, onNote }: Props) {
  const speaker = useSpeaker();
  const { say } = speaker;
  const [isEdited, setEdited] = useState(false);
  const [isAsked, setAsked] = useState(false);
  const item = useRef<HTMLLIElement>(null);
  const wasOpen = useRef(false);
  const { id, text, segments, learning, refusal, isWanted } = entry;
  const done = (work: Promise<unknown>) =>
    void work.catch((cause: unknown) => onNote(said(say, problemOf(cause))));
  const change = (changes: Partial<history.Entry>) => done(history.update(id, () => changes));
  // What had the focus is gone: who uses a keyboard goes on within this entry.
  useEffect(() => {
    if (document.activeElement === document.body && wasOpen.current) item.current?.focus();
    wasOpen.current = isEdited || isAsked;
  }, [isEdited, isAsked]);

  async function copy() {
    await navigator.clipboard.writeText(text).then(
      () => onNote(say("copied")),
      () => onNote(say("cannotCopy")),
    );
  }
  function download(contents: string, suffix: "txt" | "srt") {
    const link = document.createElement("a");
    const type = suffix === "srt" ? "application/x-subrip" : "text/plain";
    link.href = URL.createObjectURL(new Blob([contents], { type }));
    link.download = `tynda.${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  }
  function save(corrected: string) {
    setEdited(false);
    setAsked(policy !== "device" && corrected !== "");
    // A corrected text has no times, and needs no other one from the server.
    change({ text: corrected, segments: [], isCorrected: true, isWanted: false, refusal: null });
  }

  const action = (name: Key, onClick: () => void) => (
    <button type="button" aria-label={say("about", { action: say(name), text: about })} onClick={onClick}>
      {say(name)}
    </button>
  );
  const facts = [speaker.date(entry.created), speaker.seconds(entry.seconds)];
  return (
    <li ref={item} tabIndex={-1}>
      {isEdited ? (
        <Editor text={text} onSave={save} onCancel={() => setEdited(false)} />
      ) : (
        <p class="said">{about}</p>
      )}
      <p class="when">{[...facts, ...(entry.place ? [madeBy(entry, speaker)] : [])].join(", ")}</p>
      {isWanted && policy !== "device" && isDue(entry) && <p class="note">{say("waits")}</p>}
      {refusal && <p class="error">{said(say, refusal)}</p>}
      {learning === "agreed" && policy !== "device" && isDue(entry) && <p class="note">{say("givingWaits")}</p>}
      {learning === "given" && <p class="note">{say("given")}</p>}
      {learning === "withdrawn" && <p class="note">{say("takingBack")}</p>}
      {isAsked && (
        <div role="group" class="question" aria-label={say("mayLearn")}>
          <p>
            <strong>{say("mayLearn")}</strong> {say("mayLearnAbout", { server: server.name })}
          </p>
          <div class="actions">
            <button
              type="button"
              onClick={() => {
                setAsked(false);
                change({ learning: "agreed" });
              }}
            >
              {say("mayLearnYes")}
            </button>
            <button type="button" onClick={() => setAsked(false)}>
              {say("mayLearnNo")}
            </button>
          </div>
        </div>
      )}
      <div class="actions">
        {action("play", onPlay)}
        {text && action("copy", () => void copy())}
        {!isEdited && action("edit", () => setEdited(true))}
        {text && "share" in navigator && action("share", () => void navigator.share({ text }).catch(() => undefined))}
        {text && action("textFile", () => download(`${text}\n`, "txt"))}
        {segments.length > 0 && action("subtitles", () => download(srt(segments), "srt"))}
        {onAgain && action("again", onAgain)}
        {(learning === "agreed" || learning === "given") &&
          action("takeBack", () => done(history.update(id, takenBack)))}
        {action("delete", () => done(history.remove(id)))}
      </div>
    </li>
  );
}

function takenBack({ isSent }: history.Entry): Partial<history.Entry> {
  return { learning: isSent ? "withdrawn" : "no" };
}

interface EditorProps {
  text: string;
  onSave: (text: string) => void;
  onCancel: () => void;
}

function Editor({ text, onSave, onCancel }: EditorProps) {
  const { say } = useSpeaker();
  const [edited, setText] = useState(text);
  const area = useRef<HTMLTextAreaElement>(null);
  useEffect(() => area.current?.focus(), []);
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        onSave(edited.trim());
      }}
    >
      <textarea
        aria-label={say("correctedText")}
        rows={3}
        maxLength={100_000}
        value={edited}
        ref={area}
        onInput={(event) => setText(event.currentTarget.value)}
      />
      <div class="actions">
        <button type="submit">{say("save")}</button>
        <button type="button" onClick={onCancel}>
          {say("cancel")}
        </button>
      </div>
    </form>
  );
}
