// The server that serves this page: OpenAI's transcriptions, and jobs.
import type { Segment } from "../../engine/src/index.js";
import { secret } from "./database.js";
import { Problem } from "./problem.js";
import { OTHER } from "./settings.js";

export const KEY = "api-key";

/** A recording for the server. */
export interface Recorded {
  wav: Blob;
  /** The length of the recording. */
  seconds: number;
  spoken: string;
}

/** What the server has understood. */
export interface Understood {
  text: string;
  segments: Segment[];
  /** The name of the server's model. */
  model: string;
}

export interface Job {
  status: "waiting" | "running" | "done" | "failed" | "cancelled";
  error: { message: string } | null;
}

const PATIENCE_SECONDS = 20;
const NOT_NOW = [408, 409, 429, 500, 502, 503, 504];

/** The name of the server, as users know it. */
export const name = location.host;

/** Whether the same may succeed later: there is no network, or the server has no time. */
export function isLater(problem: Problem): boolean {
  return problem.key === "errorOffline" || problem.key === "errorBusy";
}

/** Rejects with a Problem where the server does not accept the key. */
export async function check(): Promise<void> {
  await model();
}

/** Returns what was said, by a request of which the server keeps nothing. */
export async function transcribe(recorded: Recorded): Promise<Understood> {
  const form = await formOf(recorded);
  form.set("response_format", "verbose_json");
  const patience = PATIENCE_SECONDS + recorded.seconds;
  const answer = await ask("/v1/audio/transcriptions", { method: "POST", body: form }, patience);
  return understood(answer, String(form.get("model")));
}

/** Sends a recording as a job. The same id makes no second one; `onSending` is called before. */
export async function send(id: string, recorded: Recorded, onSending: () => Promise<void>): Promise<void> {
  const form = await formOf(recorded); // Without a network, nothing is sent.
  form.set("id", id);
  await onSending();
  await ask("/v1/jobs", { method: "POST", body: form }, PATIENCE_SECONDS + recorded.seconds);
}

/** Returns the state of a job; nothing where the server does not have it. */
export async function job(id: string): Promise<Job | undefined> {
  const answer = await ask(`/v1/jobs/${id}`, {}, PATIENCE_SECONDS, [404]);
  return answer.ok ? ((await answer.json()) as Job) : undefined;
}

/** Returns what was said in the recording of a job that is done. */
export async function result(id: string): Promise<Understood> {
  const answer = await ask(`/v1/jobs/${id}/result?response_format=verbose_json`);
  return understood(answer, await model());
}

/** Gives the text that was spoken, from which models may learn. */
export async function teach(id: string, text: string): Promise<void> {
  const body = JSON.stringify({ correction: text, consent: true });
  await ask(`/v1/jobs/${id}`, { method: "PATCH", body, headers: { "Content-Type": "application/json" } });
}

/** Deletes a job with its recording and texts. */
export async function remove(id: string): Promise<void> {
  await ask(`/v1/jobs/${id}`, { method: "DELETE" }, PATIENCE_SECONDS, [404]);
}

async function model(): Promise<string> {
  const { data } = (await (await ask("/v1/models")).json()) as { data: { id: string }[] };
  return data[0]?.id ?? "";
}

async function formOf({ wav, spoken }: Recorded): Promise<FormData> {
  const form = new FormData();
  form.set("file", wav, "recording.wav");
  form.set("model", await model());
  if (spoken !== OTHER) form.set("language", spoken);
  return form;
}

async function understood(answer: Response, model: string): Promise<Understood> {
  const { text, segments } = (await answer.json()) as Omit<Understood, "model">;
  const timed = segments.map(({ start, end, text }) => ({ start, end, text: text.trim() }));
  return { text: text.trim(), segments: timed, model };
}

/** Returns an answer that is good, or has one of the `expected` statuses. */
async function ask(
  path: string,
  request: RequestInit = {},
  patience = PATIENCE_SECONDS,
  expected: number[] = [],
): Promise<Response> {
  const key = await secret(KEY);
  if (!key) throw new Problem("errorNoKey");
  const headers = { ...request.headers, Authorization: `Bearer ${key}` };
  const signal = AbortSignal.timeout(1000 * patience);
  const answer = await fetch(path, { ...request, headers, signal, cache: "no-store" }).catch(() => undefined);
  if (!answer) throw new Problem("errorOffline");
  if (answer.ok || expected.includes(answer.status)) return answer;
  if (NOT_NOW.includes(answer.status)) throw new Problem("errorBusy");
  if (answer.status === 401 || answer.status === 403) throw new Problem("errorKey");
  throw new Problem("errorServer", await reason(answer));
}

async function reason(answer: Response): Promise<string> {
  try {
    return ((await answer.json()) as { error: { message: string } }).error.message;
  } catch {
    return String(answer.status);
  }
}
