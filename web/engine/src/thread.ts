// A worker that is one thread of an engine, see threads.ts.
import { runThread, type ThreadExports, threadImports } from "./system.js";
import type { Begin } from "./threads.js";

declare const self: DedicatedWorkerGlobalScope;

self.onmessage = ({ data }: MessageEvent<Begin>) => {
  let exports: ThreadExports | undefined;
  const imports = threadImports(data.module, data.memory, () => exports!, () => false);
  exports = new WebAssembly.Instance(data.module, imports).exports as unknown as ThreadExports;
  runThread(data, exports);
};
self.postMessage("ready");
