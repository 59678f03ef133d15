"""The engine in a browser beside onnxruntime-web and transformers.js, on the same weights.

    npm --prefix PEERS install onnxruntime-web @huggingface/transformers
    python bench/web_peers.py RECORDING FOLDER PEERS

FOLDER is OpenAI's tiny.en as on the Hugging Face hub, from which ``web_onnx.py`` writes ONNX. All
run in Chromium, on one thread of WebAssembly, for the first 10 s of the recording; they take turns.
Times are those that the page's process spent on processors, and those of the clock, which other
work on the machine makes longer: median of RUNS. onnxruntime-web has a greedy loop here, and gets
its features for nothing; the others find them. Memory is what the page's
process has to itself (USS) beyond an empty page, at its maximum, each alone. Bytes are those of the
engine's WebAssembly and of the model, as gzip compresses them.
"""

from __future__ import annotations

import gzip
import json
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Browser, Page, sync_playwright

import web_onnx
from tynda.export import export_archive
from tynda.heads import head_of
from tynda.serve.web import export_for_page
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.store import library
from web import BUILT, LOAD, TRANSCRIBE, largest, renderer_bytes, renderers, served

RUNS = 5
ORT = "node_modules/onnxruntime-web/dist"
JS = "node_modules/@huggingface/transformers/dist/transformers.web.min.js"
NAMES = json.dumps(
    {
        "imports": {
            "onnxruntime-common": "/node_modules/onnxruntime-common/dist/esm/index.js",
            "onnxruntime-web/webgpu": f"/{ORT}/ort.webgpu.bundle.min.mjs",
        }
    }
)
PAGE = f"<!doctype html><title>bench</title><script type=importmap>{NAMES}</script>"

LOAD_ORT = """async suffix => {
  const ort = await import("/node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs");
  ort.env.wasm.numThreads = 1;
  const bytes = async name => new Uint8Array(await (await fetch(name)).arrayBuffer());
  const open = async name =>
    ort.InferenceSession.create(await bytes(`/onnx/${name}${suffix}.onnx`));
  const encoder = await open("encoder_model"), decoder = await open("decoder_model_merged");
  const features = new Float32Array((await bytes("/features.f32")).buffer);
  const { prompt, never, first, end, max_tokens, heads, width } =
    await (await fetch("/decoding.json")).json();
  const tensor = (kind, data, shape) => new ort.Tensor(kind, data, shape);
  window.run = async () => {
    const started = performance.now();
    const input_features = tensor("float32", features, [1, features.length / 3000, 3000]);
    const states = (await encoder.run({ input_features })).last_hidden_state;
    const past = {}, said = [];
    for (const name of decoder.inputNames)
      if (name.startsWith("past"))
        past[name] = tensor("float32", new Float32Array(0), [1, heads, 0, width]);
    let tokens = prompt;
    while (said.length < max_tokens) {
      const results = await decoder.run({
        input_ids: tensor("int64", BigInt64Array.from(tokens, BigInt), [1, tokens.length]),
        encoder_hidden_states: states,
        use_cache_branch: tensor("bool", [said.length > 0], [1]),
        ...past,
      });
      for (const [name, value] of Object.entries(results)) {
        // The keys and values of the states come with the first tokens, and stay.
        if (name.startsWith("present") && (said.length === 0 || name.includes("decoder")))
          past[name.replace("present", "past_key_values")] = value;
      }
      const { data, dims } = results.logits;
      const row = data.subarray(data.length - dims[2]);
      for (const id of said.length ? never : [...never, ...first]) row[id] = -Infinity;
      let best = 0;
      for (let i = 1; i < row.length; i++) if (row[i] > row[best]) best = i;
      if (best === end) break;
      said.push(best);
      tokens = [best];
    }
    return { tokens: said, seconds: (performance.now() - started) / 1000 };
  };
}"""
LOAD_JS = """async dtype => {
  const { env, pipeline } = await import("/JS");
  Object.assign(env, { allowRemoteModels: false, allowLocalModels: true, localModelPath: "/" });
  Object.assign(env, { useBrowserCache: false, useWasmCache: false });
  Object.assign(env.backends.onnx.wasm, { numThreads: 1, wasmPaths: "/ORT/" });
  const asr = await pipeline("automatic-speech-recognition", "model", { dtype, device: "wasm" });
  const samples = new Float32Array(await (await fetch("/samples.f32")).arrayBuffer());
  window.run = async () => {
    const started = performance.now();
    const { text } = await asr(samples);
    return { text: text.trim(), seconds: (performance.now() - started) / 1000 };
  };
}""".replace("JS", JS).replace("ORT", ORT)


@dataclass
class Engine:
    """How a page loads an engine and runs it, and the files that it needs."""

    name: str
    load: Callable[[Page], Any]
    run: Callable[[Page], Any]
    files: list[Path]


def ours(name: str, archive: Path) -> Engine:
    load = LOAD.replace("model.tar.gz", archive.name)
    files = [BUILT / "assets" / "engine.wasm", archive]
    return Engine(name, lambda p: p.evaluate(load, 1), lambda p: p.evaluate(TRANSCRIBE), files)


def theirs(name: str, script: str, argument: str, wasm: Path, models: Path, kind: str) -> Engine:
    graphs = ("encoder_model", "decoder_model_merged")
    files = [wasm, *(models / f"{graph}{web_onnx.SUFFIX[kind]}.onnx" for graph in graphs)]
    return Engine(
        name,
        lambda page: page.evaluate(script, argument),
        lambda page: page.evaluate("run()"),
        files,
    )


def engines(folder: Path, checkpoint: Path, peers: Path) -> list[Engine]:
    """Everything that is measured, and its files in `folder`, which is served."""
    shutil.copytree(BUILT / "assets", folder / "assets")
    (folder / "index.html").write_text(PAGE)
    (folder / "node_modules").symlink_to((peers / "node_modules").resolve())
    for kind in ("f32", "q8"):
        web_onnx.write(checkpoint, kind, folder / "model")
    (folder / "onnx").symlink_to(folder / "model" / "onnx")
    export_for_page(library.load("whisper-tiny.en"), folder / "few.tar.gz")
    export_archive(library.load(str(checkpoint)), folder / "eight.tar.gz", bits=8)
    models, dist = folder / "model" / "onnx", folder / ORT
    wasm, big = (dist / f"ort-wasm-simd-threaded{x}.wasm" for x in ("", ".asyncify"))
    found = [
        ours("tynda, 4 bits", folder / "few.tar.gz"),
        ours("tynda, 8 bits", folder / "eight.tar.gz"),
    ]
    for kind, dtype in (("f32", "fp32"), ("q8", "q8")):
        suffix = web_onnx.SUFFIX[kind]
        found.append(theirs(f"onnxruntime-web {kind}", LOAD_ORT, suffix, wasm, models, kind))
        found.append(theirs(f"transformers.js {kind}", LOAD_JS, dtype, big, models, kind))
    return found


def write_inputs(folder: Path, model: Any, samples: Any) -> None:
    """The samples, their features, and what greedy decoding needs."""
    samples.astype("<f4").tofile(folder / "samples.f32")
    features = head_of(model.family).window_features(model, samples)
    features.T.astype("<f4").tofile(folder / "features.f32")
    exported, config = head_of(model.family).exported(model, None), model.config
    shape = {"heads": config.decoder_heads, "width": config.channels // config.decoder_heads}
    tokens = {**exported.tokens}
    tokens["prompt"] = [*tokens["prompt"], model.tokenizer.no_timestamps]
    decoding = {**tokens, **exported.numbers, **shape}
    (folder / "decoding.json").write_text(json.dumps(decoding))


def processor_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    recording, checkpoint, peers = map(Path, sys.argv[1:])
    samples = audio.load(recording)[: 10 * SAMPLE_RATE]
    seconds, model = len(samples) / SAMPLE_RATE, library.load(str(checkpoint))
    pieces = model.tokenizer.token_bytes()
    with (
        tempfile.TemporaryDirectory() as temporary,
        sync_playwright() as playwright,
        ExitStack() as stack,
    ):
        folder = Path(temporary)
        write_inputs(folder, model, samples)
        found = engines(folder, checkpoint, peers)
        url = stack.enter_context(served(folder))
        start: Callable[[], Browser] = partial(
            playwright.chromium.launch,
            executable_path=shutil.which("chromium") or "chromium",
            args=["--no-sandbox"],
        )

        def opened(browser: Browser) -> Page:
            page = browser.new_page()
            page.goto(url)
            time.sleep(1)
            return page

        memory = []
        for engine in found:
            browser = start()
            page = opened(browser)
            empty = renderer_bytes()
            with largest() as most:
                engine.load(page)
                engine.run(page)
            memory.append(most[0] - empty)
            browser.close()
        pages, processes = [], []
        for engine in found:
            before = set(renderers())
            pages.append(opened(start()))
            engine.load(pages[-1])
            engine.run(pages[-1])
            # A browser has another one in reserve, which does nothing.
            new = [each for each in renderers() if each not in before]
            processes.append(max(new, key=processor_seconds))
        runs: list[list[Any]] = [[] for _ in found]
        for _ in range(RUNS):
            for engine, page, process, own in zip(found, pages, processes, runs, strict=True):
                began = processor_seconds(process)
                result = engine.run(page)
                own.append({**result, "processor": processor_seconds(process) - began})
        for i, engine in enumerate(found):
            spent, passed = (
                statistics.median(run[each] for run in runs[i]) / seconds
                for each in ("processor", "seconds")
            )
            last = runs[i][-1]
            text = last.get("text") or b"".join(pieces[t] for t in last["tokens"]).decode().strip()
            size, *sizes = (len(gzip.compress(path.read_bytes(), 6)) for path in engine.files)
            print(
                f"{engine.name}: real-time factor {spent:.3f} of the processor, {passed:.3f} of "
                f"the clock; memory {memory[i] / 1e6:.0f} MB; engine {size / 1e6:.1f} MB, "
                f"model {sum(sizes) / 1e6:.1f} MB; {text}",
                flush=True,
            )


if __name__ == "__main__":
    main()
