// node --no-warnings run.mjs PROGRAM.wasm: runs a program of WebAssembly, which sees no files.
import { readFile } from "node:fs/promises";
import { argv } from "node:process";
import { WASI } from "node:wasi";

const wasi = new WASI({ version: "preview1", args: argv.slice(2), returnOnExit: true });
const { instance } = await WebAssembly.instantiate(await readFile(argv[2]), {
  wasi_snapshot_preview1: wasi.wasiImport,
  env: { emscripten_notify_memory_growth() {} },
});
process.exitCode = wasi.start(instance);
