// node recognise.js ENGINE.wasm MODEL.tar.gz FILE...: prints, as a line of JSON, what each file of
// float32 samples says, its segments and confidence, with the seconds that it took and the memory of
// the engine in bytes.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

import { Archive } from "../src/archive.js";
import { Engine } from "../src/module.js";
import { Hearing } from "../src/pieces.js";

const [wasm = "", model = "", ...files] = process.argv.slice(2);
try {
  const bytes = gunzipSync(readFileSync(model));
  const read = (offset: number, length: number) => bytes.subarray(offset, offset + length);
  const module = new WebAssembly.Module(readFileSync(wasm));
  const engine = await Engine.load(module, new Archive({ size: bytes.length, read }));
  for (const file of files) {
    const samples = new Float32Array(new Uint8Array(readFileSync(file)).buffer);
    const started = performance.now();
    const hearing = new Hearing(engine);
    hearing.feed(samples);
    const heard = hearing.finish();
    const seconds = (performance.now() - started) / 1000;
    console.log(JSON.stringify({ ...heard, seconds, memory: engine.memory }));
  }
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
