"""Whether a draft can make Whisper's greedy decoding faster: an estimate.

    python bench/speculative.py MODEL MANIFEST [--each 12] [--bits 8] [--threads 2] [--live]

A draft proposes k tokens, and one step of the whole decoder with k + 1 tokens verifies them; the
text is always that of greedy decoding (Leviathan et al. 2023, "Fast Inference from Transformers via
Speculative Decoding", at temperature 0). The gain follows from two measurements:

- how many tokens the draft has right in a row, on the model's own greedy texts. Drafts are the
  first layers of the decoder itself, with its last norm and output layer, and, with --live, the
  text of the same utterance 0.4 s earlier, which costs nothing.
- the time of a step with k + 1 tokens and all their logits, and of the draft's, against a step of
  one token, on the native engine, with the KV cache in the middle of a text.

The expected time for each token is (k draft steps + a step with k + 1 tokens) / tokens accepted.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from typing import Any

import numpy as np

import tynda
from tynda import manifest
from tynda.compile.engine import open_engine
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import Network, decode, start_tokens
from tynda.heads.seq2seq.windows import encode_windows
from tynda.sound import audio

DRAFTS = (1, 2, 3, 4, 6, 8, 12, 16)
POSITION = 16
"""Number of tokens in the KV cache when steps are timed."""


def all_logits(
    ops: Any, weights: Any, settings: Any, tokens: Any, starts: Any, cross: Any, cache: Any
) -> Any:
    """Run the decoder on ``tokens [1, n]``; return the logits of all of them, and the cache."""
    family, config = settings
    programs = family.programs
    states, cache = programs["decode"](ops, weights, config, tokens, starts, cross, cache)
    return programs["logits"](ops, weights, config, states), cache


def runs(right: list[bool], k: int) -> float:
    """Return the mean number of tokens that a step accepts, the model's own one included."""
    at = steps = 0
    while at < len(right):
        accepted = 0
        while accepted < k and at + accepted < len(right) and right[at + accepted]:
            accepted += 1
        at, steps = at + accepted + 1, steps + 1
    return len(right) / max(steps, 1)


def costs(kinds: dict[str, tuple[Network, Any, int]]) -> dict[str, float]:
    """Return the seconds of the steps of a network with ``cross`` on a number of tokens, by name.

    They are those of the processor, so that other programs on the machine count little; with more
    than one thread, those of all threads.
    """
    took: dict[str, list[float]] = {name: [] for name in kinds}
    caches = {name: network.cache(1, 64) for name, (network, _, _) in kinds.items()}
    for _ in range(30):
        for name, (network, cross, count) in kinds.items():
            tokens, settings = np.full((1, count), 300, np.int64), (network.family, network.config)
            started = time.process_time()
            logits, caches[name] = network.engine.run(
                all_logits, settings, tokens, np.array([POSITION]), cross, caches[name]
            )
            network.engine.array(logits).argmax(-1)
            took[name].append(time.process_time() - started)
    return {name: float(np.median(times)) for name, times in took.items()}


def first_layers(cross: Any, count: int) -> Any:
    return replace(cross, keys=cross.keys[:count], values=cross.values[:count])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest")
    parser.add_argument("--each", type=int, default=12)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int)
    parser.add_argument("--live", action="store_true")
    args = parser.parse_args()
    model = tynda.load(args.model, threads=args.threads, bits=args.bits)
    checkpoint, network = model.checkpoint, model.head.network
    layers = network.config.decoder_layers
    options = Options(without_timestamps=True)
    language = "en" if network.tokenizer.multilingual else None
    prompt = [
        *start_tokens(network.tokenizer, language, "transcribe"),
        network.tokenizer.no_timestamps,
    ]
    drafts: dict[str, Network] = {}
    for count in range(1, layers):
        config = replace(network.config, decoder_layers=count)
        trainable = checkpoint.family.trainable(config)
        own = {k: checkpoint.weights[k] for k in checkpoint.family.specs(config)}
        engine = open_engine(own, trainable, "native", args.bits, args.threads)
        drafts[f"{count} of {layers} layers"] = replace(network, engine=engine, config=config)
    right: dict[str, list[bool]] = {name: [] for name in drafts} | {"text 0.4 s earlier": []}
    tokens_in_all = 0
    for utterance in manifest.read(args.manifest)[:: args.each]:
        samples = audio.load(utterance.audio)[: 29 * audio.SAMPLE_RATE]
        starts = np.arange(1.0, len(samples) / audio.SAMPLE_RATE, 0.4) if args.live else []
        before: list[int] = []
        for end in [*starts, None]:
            part = samples[: None if end is None else int(end * audio.SAMPLE_RATE)]
            cross = encode_windows(network, [checkpoint.frontend(part)], options)
            (result,) = decode(network, cross, options, [language])
            text = [*result.tokens, network.tokenizer.eot]
            if args.live and before:
                # After a token that differs, the draft goes on as if the texts were aligned.
                old = [*before, network.tokenizer.eot]
                right["text 0.4 s earlier"] += [a == b for a, b in zip(text, old, strict=False)]
                right["text 0.4 s earlier"] += [False] * max(0, len(text) - len(old))
            before = result.tokens
        tokens_in_all += len(text)
        forced = np.array([[*prompt, *text[:-1]]])
        for name, draft in drafts.items():
            settings = draft.family, draft.config
            short = first_layers(cross, draft.config.decoder_layers)
            cache = draft.cache(1, forced.shape[1])
            logits, _ = draft.engine.run(all_logits, settings, forced, np.array([0]), short, cache)
            logits = np.array(draft.engine.array(logits)[0, len(prompt) - 1 :])
            logits[:, sorted(network.tokenizer.non_speech | network.tokenizer.unwritten)] = -np.inf
            right[name] += (logits.argmax(-1) == text).tolist()
    kinds: dict[str, tuple[Network, Any, int]] = {"1": (network, cross, 1)}
    kinds |= {f"{k + 1}": (network, cross, k + 1) for k in DRAFTS}
    kinds |= {n: (d, first_layers(cross, d.config.decoder_layers), 1) for n, d in drafts.items()}
    cost = costs(kinds)
    print(f"{args.model}: {tokens_in_all} tokens, {args.threads} threads")
    one = cost["1"]
    print(
        f"a step of 1 token {1000 * one:.2f} ms; "
        + ", ".join(f"of {k + 1}: {cost[str(k + 1)] / one:.2f}" for k in DRAFTS)
    )
    for name, hits in right.items():
        if not hits:
            continue
        draft = cost.get(name, 0.0) / one
        found = []
        for k in DRAFTS:
            accepted = runs(hits, k)
            share = (k * draft + cost[str(k + 1)] / one) / accepted
            found.append(f"k={k}: {accepted:.2f} tokens, {share:.2f}")
        print(
            f"{name}: right {np.mean(hits):.1%}, a draft step {draft:.2f} of a step; time for each "
            f"token: {'; '.join(found)}",
            flush=True,
        )


if __name__ == "__main__":
    main()
