// node command.js ENGINE.wasm MODEL.tar.gz COMMANDS.json FILE...: prints, as a line of JSON, what
// each file of float32 samples says as one utterance, and what is heard in it while it comes, with
// the seconds of computing for the last utterance.
import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";

import { Archive } from "../src/archive.js";
import { Grammar } from "../src/grammar.js";
import { Listening, recognised } from "../src/listening.js";
import { Engine } from "../src/module.js";

const [wasm = "", model = "", commands = "", ...files] = process.argv.slice(2);
try {
  const bytes = gunzipSync(readFileSync(model));
  const read = (offset: number, length: number) => bytes.subarray(offset, offset + length);
  const module = new WebAssembly.Module(readFileSync(wasm));
  const engine = await Engine.load(module, new Archive({ size: bytes.length, read }));
  const grammar = Grammar.read(readFileSync(commands, "utf8"), engine.tokenSum);
  for (const file of files) {
    const samples = new Float32Array(new Uint8Array(readFileSync(file)).buffer);
    const whole = recognised(engine, grammar, samples);
    const listening = new Listening(engine, grammar);
    const heard = [];
    let seconds = 0;
    for (let at = 0; at <= samples.length; at += 128) {
      const started = performance.now();
      const found = listening.feed(samples.subarray(at, at + 128));
      if (found.length) seconds = (performance.now() - started) / 1000;
      heard.push(...found);
    }
    heard.push(...listening.finish());
    console.log(JSON.stringify({ whole, heard, seconds }));
  }
} catch (error) {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
