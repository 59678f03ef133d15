// The threads of an engine beside the worker that has it.

/** What a thread needs to begin: what all share, and the arguments of `pthread_create`. */
export interface Begin {
  module: WebAssembly.Module;
  memory: WebAssembly.Memory;
  thread: number;
  stack: number;
  start: number;
  argument: number;
}

// Of 64 KiB: at the beginning, as native/CMakeLists.txt has it, and at most. Some phones have no room
// for the larger number, whether it is needed or not.
const INITIAL_PAGES = 256;
const MAX_PAGES = [16384, 4096];

/** Further workers, which end with the one that has them, and the memory that they share. */
export class Crew {
  private constructor(
    private readonly idle: Worker[],
    readonly memory: WebAssembly.Memory,
  ) {}

  /**
   * Returns workers that are ready: while the engine works, no other can be loaded. Some may be
   * missing. Where there is no memory that workers can share, there are none.
   */
  static async of(count: number): Promise<Crew | undefined> {
    const memory = sharedMemory();
    if (!memory) return undefined;
    const ready = Array.from({ length: count }, () => {
      const worker = new Worker(new URL("./thread.ts", import.meta.url), { type: "module" });
      return new Promise<Worker | null>((resolve) => {
        worker.onmessage = () => resolve(worker);
        worker.onerror = () => resolve(null);
      });
    });
    const idle = (await Promise.all(ready)).filter((worker) => worker !== null);
    return idle.length ? new Crew(idle, memory) : undefined;
  }

  get size(): number {
    return this.idle.length;
  }

  /** Begins a thread; returns false where there are no more. */
  begin(begin: Begin): boolean {
    const worker = this.idle.pop();
    worker?.postMessage(begin);
    return worker !== undefined;
  }
}

function sharedMemory(): WebAssembly.Memory | undefined {
  for (const maximum of MAX_PAGES)
    try {
      return new WebAssembly.Memory({ initial: INITIAL_PAGES, maximum, shared: true });
    } catch {
      // The next one is smaller.
    }
  return undefined;
}
