// What waits for the server: recordings for a text, and those from which models may learn.
//
// All that is to be done stands in the entries, so that it goes on after a reload. Only the tab that
// holds the lock of an entry (Web Locks) works on it, and a job has the id of its entry: whatever
// was interrupted where, the server gets it once.
import * as history from "./history.js";
import { Problem, problemOf } from "./problem.js";
import * as server from "./server.js";
import { onChange, settings } from "./settings.js";

const POLL_MS = 1000;
const AGAIN_MS = 20_000;

/** Does the work while nobody else, in whatever tab, works on an entry. */
export function locked<T>(id: string, work: () => Promise<T>): Promise<T> {
  return navigator.locks.request(`tynda.entry.${id}`, work) as Promise<T>;
}

/** Returns whether anything of an entry is to be sent, or deleted on the server. */
export function isDue(entry: history.Entry): boolean {
  const { isWanted, isSent, learning, refusal } = entry;
  if (isOver(entry)) return isSent;
  return settings().policy !== "device" && !refusal && (isWanted || learning === "agreed");
}

/** Returns whether the server is not to have a recording, or not any more. */
function isOver({ isWanted, isDeleted, learning }: history.Entry): boolean {
  const isUnwanted = learning === "no" && (!isWanted || settings().policy === "device");
  return isDeleted || learning === "withdrawn" || isUnwanted;
}

/** Sends all that waits, now and whenever there may be a network again. */
export function start(): void {
  let isRunning = false;
  let isAgain = false;
  async function wake() {
    isAgain = true;
    if (isRunning) return;
    isRunning = true;
    while (isAgain) {
      isAgain = false;
      await all().catch(() => undefined); // The page shows that entries cannot be read.
    }
    isRunning = false;
  }
  addEventListener("online", () => void wake());
  document.addEventListener("visibilitychange", () => void wake());
  setInterval(() => void wake(), AGAIN_MS);
  history.onChange(() => void wake());
  onChange(() => void wake());
  void wake();
}

/** Lets the server be asked again that had no valid key. */
export async function keyChanged(): Promise<void> {
  for (const { id, refusal } of await history.entries())
    if (refusal?.key === "errorKey" || refusal?.key === "errorNoKey")
      await history.update(id, () => ({ refusal: null }));
}

/** Returns what a text of the server changes in an entry, whose text the user may have corrected. */
export function texts({ text, segments, model }: server.Understood): history.Change {
  return ({ isWanted }) =>
    isWanted ? { text, segments, model, place: "server", isWanted: false, isCorrected: false } : {};
}

async function all(): Promise<void> {
  const entries = await history.entries();
  for (const { id } of entries.filter(isDue).reverse()) await locked(id, () => attempt(id));
}

async function attempt(id: string): Promise<void> {
  const entry = await history.find(id);
  if (!entry || !isDue(entry)) return;
  try {
    if (isOver(entry)) await takeBack(id);
    else await deliver(entry);
  } catch (cause) {
    const problem = problemOf(cause);
    const { key, detail } = problem;
    if (!server.isLater(problem)) await history.update(id, () => ({ refusal: { key, detail } }));
  }
}

async function deliver({ id, isWanted, learning, text, seconds, spoken }: history.Entry): Promise<void> {
  if (isWanted || learning === "agreed") {
    const wav = await history.recording(id);
    await server.send(id, { wav, seconds, spoken }, () => mark(id));
  }
  if (isWanted) await history.update(id, await finished(id));
  if (learning === "agreed") {
    await server.teach(id, oneLine(text));
    // The user may have changed their mind, or the text, meanwhile.
    await history.update(id, (now) => (now.learning === "agreed" && now.text === text ? { learning: "given" } : {}));
  } else if (learning === "no") await takeBack(id);
}

/**
 * Marks what is about to be sent: the server may have it from then on, whether its answer comes or
 * not. Rejects where the user has forbidden it, or deleted the entry, meanwhile.
 */
async function mark(id: string): Promise<void> {
  const isAllowed = settings().policy !== "device";
  const entry = isAllowed && (await history.update(id, () => ({ isSent: true })));
  if (!entry || entry.isDeleted) throw new Problem("errorOffline"); // It is tried again if it is still due.
}

/** Deletes a job, of which nothing is needed any more. */
async function takeBack(id: string): Promise<void> {
  await server.remove(id);
  const entry = await history.update(id, ({ learning }) => ({
    isSent: false,
    learning: learning === "withdrawn" ? "no" : learning,
  }));
  if (entry?.isDeleted) await history.forget(id);
}

/** Waits for the end of a job, and returns what it changes. */
async function finished(id: string): Promise<history.Change> {
  for (;;) {
    const job = await server.job(id);
    if (job?.status === "done") return texts(await server.result(id));
    if (job?.status !== "waiting" && job?.status !== "running") {
      const detail = job?.error?.message ?? job?.status ?? "404";
      return () => ({ isWanted: false, refusal: { key: "errorServer", detail } });
    }
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** The server keeps a corrected text as one line. */
function oneLine(text: string): string {
  return text.replace(/[\p{Cc}\p{Cs}\p{Zl}\p{Zp}\s]+/gu, " ").trim();
}
