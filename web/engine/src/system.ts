// What the standard library of the engine asks of the page.
import { EngineError } from "./errors.js";
import type { Begin } from "./threads.js";

/** Functions of a thread's C library that the page calls (emscripten 3.1.6, USE_PTHREADS). */
export interface ThreadExports {
  __wasm_call_ctors(): void;
  __indirect_function_table: WebAssembly.Table;
  _emscripten_thread_init(thread: number, isBrowser: number, isRuntime: number, canBlock: number, isProfiled: number): void;
  emscripten_stack_set_limits(top: number, bottom: number): void;
  stackRestore(top: number): void;
}

const STACK_BYTES = 1 << 20;
const PAGE_BYTES = 1 << 16;
// Where `pthread_create` has the end of a thread's stack, which grows down (struct pthread).
const STACK_AT = 44;
// EAGAIN: there are no more threads.
const NO_THREAD = 6;

function stopped(): never {
  throw new EngineError("stopped", "the engine stopped");
}

/** An environment, which is empty. */
function environment(view: () => DataView): WebAssembly.ModuleImports {
  return {
    environ_sizes_get(count: number, size: number): number {
      view().setUint32(count, 0, true);
      view().setUint32(size, 0, true);
      return 0;
    },
    environ_get: () => 0,
  };
}

/** Imports of the engine on one thread. */
export function plainImports(memory: () => WebAssembly.Memory): WebAssembly.Imports {
  const view = () => new DataView(memory().buffer);
  return {
    env: { emscripten_notify_memory_growth: () => undefined },
    wasi_snapshot_preview1: {
      ...environment(view),
      clock_time_get(_clock: number, _precision: bigint, to: number): number {
        view().setBigUint64(to, BigInt(Math.round(performance.now() * 1e6)), true);
        return 0;
      },
      proc_exit: stopped,
    },
  };
}

/**
 * Imports of each thread of the engine, which share a memory. `begin` starts another one, and
 * returns whether there is one.
 */
export function threadImports(
  module: WebAssembly.Module,
  memory: WebAssembly.Memory,
  exports: () => ThreadExports,
  begin: (begin: Begin) => boolean,
): WebAssembly.Imports {
  const view = () => new DataView(memory.buffer);
  function clock_gettime(_clock: number, to: number): number {
    // Threads have clocks that began with them.
    const now = performance.timeOrigin + performance.now();
    view().setInt32(to, Math.floor(now / 1000), true);
    view().setInt32(to + 4, Math.floor((now % 1000) * 1e6), true);
    return 0;
  }
  const env: Record<string, WebAssembly.ImportValue> = {
    memory,
    clock_gettime,
    __clock_gettime: clock_gettime,
    emscripten_get_now: () => performance.timeOrigin + performance.now(),
    emscripten_check_blocking_allowed: () => undefined,
    emscripten_memcpy_big: (to: number, from: number, count: number) =>
      new Uint8Array(memory.buffer).copyWithin(to, from, from + count),
    emscripten_resize_heap(bytes: number): number {
      try {
        memory.grow(Math.ceil(((bytes >>> 0) - memory.buffer.byteLength) / PAGE_BYTES));
        return 1;
      } catch {
        return 0;
      }
    },
    _emscripten_default_pthread_stack_size: () => STACK_BYTES,
    // Thread-local variables stay where they are, at address 0, for all threads: clang 14 takes the
    // one with which an exception finds where it is caught for a global, and libunwind does not.
    // Threads throw hardly ever, and need none of the others.
    __emscripten_init_main_thread_js: (thread: number) =>
      exports()._emscripten_thread_init(thread, 0, 1, 1, 0),
    __pthread_create_js(thread: number, _attributes: number, start: number, argument: number): number {
      const stack = view().getInt32(thread + STACK_AT, true);
      return begin({ module, memory, thread, stack, start, argument }) ? 0 : NO_THREAD;
    },
  };
  const imports: WebAssembly.Imports = { env, wasi_snapshot_preview1: environment(view) };
  // The C library knows others, such as a console, which the engine does not use.
  for (const { module: from, name, kind } of WebAssembly.Module.imports(module))
    if (kind === "function") (imports[from] ??= {})[name] ??= stopped;
  return imports;
}

/** Runs what `pthread_create` was given, until it ends. */
export function runThread({ thread, stack, start, argument }: Begin, exports: ThreadExports): void {
  exports._emscripten_thread_init(thread, 0, 0, 1, 0);
  exports.emscripten_stack_set_limits(stack, stack - STACK_BYTES);
  exports.stackRestore(stack);
  (exports.__indirect_function_table.get(start) as (argument: number) => number)(argument);
}
