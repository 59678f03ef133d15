"""The search for the text of one window or of a batch of windows.

Greedy search, sampling or beam search under the rules of ``rules.py``: Radford et al. 2022, section
4.5, and the reference implementation (openai/whisper, ``decoding.py``), whose option names and
results are the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine
from tynda.errors import TyndaError
from tynda.heads.seq2seq import programs
from tynda.heads.seq2seq.choices import BeamSearch, RandomSource, Sampler
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import Rules, log_softmax
from tynda.models.base import CrossKV, Family, KVCache, MergedFrames
from tynda.transcript import Segment, Word

__all__ = [
    "Decoder",
    "DecodingResult",
    "Network",
    "compression_ratio",
    "decode",
    "detect_language",
    "likeliest_languages",
    "spoken_languages",
    "start_tokens",
]

Floats = NDArray[np.float32]
Cache = KVCache[Any] | None


@dataclass(frozen=True)
class DecodingResult:
    """The text of one window."""

    tokens: list[int]
    """The tokens without prompt and end token."""
    text: str
    language: str | None
    avg_logprob: float
    """Mean log-probability of the tokens, including the end token."""
    no_speech_prob: float
    """Probability that the window has no speech; 0 where the model has no token for it."""
    temperature: float

    @property
    def compression_ratio(self) -> float:
        """The compression ratio of the text, which is high where a text repeats itself."""
        return compression_ratio(self.text)

    def segment(
        self,
        start: float,
        end: float,
        text: str,
        tokens: Sequence[int],
        words: Sequence[Word] = (),
        **details: Any,
    ) -> Segment:
        """Return a `Segment` for a part of the window, from ``start`` to ``end`` in seconds.

        ``details`` are added to those that all models have.
        """
        common = {
            "tokens": tokens,
            "temperature": self.temperature,
            "avg_logprob": round(self.avg_logprob, 4),
            "compression_ratio": round(self.compression_ratio, 4),
        }
        confidence = float(np.exp(self.avg_logprob))
        return Segment(start, end, text, list(words), confidence, details={**common, **details})


def compression_ratio(text: str) -> float:
    """Return the number of bytes of a text over that of the same text, compressed by zlib."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


@dataclass(frozen=True)
class Network:
    """An encoder-decoder model with its engine."""

    engine: Engine
    family: Family
    config: Any
    tokenizer: Any
    alignment_heads: Sequence[tuple[int, int]]
    """Layer and index of the heads whose cross-attention follows the audio."""

    def encode(
        self, features: Floats, lengths: NDArray[np.int64], *merged: MergedFrames[Any]
    ) -> tuple[Any, Any]:
        """Run the encoder on features ``[batch, frames, bins]`` with ``lengths [batch]``.

        Returns states and their lengths, both as the backend's tensors. They are those of the
        ``merged`` frames of a window, where these are given.
        """
        encode, tap = self.family.programs["encode"], None
        inputs = (features, lengths, tap, *merged) if merged else (features, lengths)
        encoded: tuple[Any, Any] = self.engine.run(encode, self.config, *inputs)
        return encoded

    def cross_kv(self, states: Any, lengths: Any, *log_counts: Any) -> CrossKV[Any]:
        """Return the cross-attention's keys and values of the encoder's states; ``log_counts`` are
        those of the frames, where they are merged."""
        program = self.family.programs["cross_kv"]
        cross: CrossKV[Any] = self.engine.run(program, self.config, states, lengths, *log_counts)
        return cross

    def stepper(
        self, tokens: NDArray[np.int64], starts: Any, cross: CrossKV[Any], cache: Cache
    ) -> Callable[..., tuple[Any, Any, Cache]]:
        """Return a function of ``tokens`` and ``starts`` of these shapes, which returns states and
        the logits of the next token, and changes the cache in place; see ``programs.step``."""
        settings = (self.family, self.config)
        return self.engine.repeated(programs.step, settings, (tokens, starts), cross, cache)

    def logits(self, states: Floats) -> Floats:
        """Return the logits ``[..., vocab]`` of the next token from states ``[..., channels]``."""
        logits = self.engine.run(self.family.programs["logits"], self.config, states)
        return self.engine.array(logits)

    def log_probs(self, logits: Floats) -> Callable[[Floats], Floats]:
        """Return a function of logits ``[rows, vocab]`` of this shape, which returns their
        log-probabilities. The engine computes them many times faster than NumPy."""
        run, array = self.engine.repeated(programs.log_probs, None, (logits,)), self.engine.array
        return lambda logits: array(run(logits))

    def select(self, part: Any, items: NDArray[np.int64]) -> Any:
        """Return the rows of a `KVCache`, or the items of a `CrossKV`, with these indices
        ``[n]``."""
        return self.engine.run(programs.select, None, part, items)

    def cache(self, rows: int, capacity: int) -> KVCache[Any]:
        """Return an empty KV cache of float32 zeros."""
        return programs.cache(self.config, rows, capacity, partial(np.zeros, dtype=np.float32))


def likeliest_languages(network: Network, cross: CrossKV[Any]) -> list[tuple[str, float]]:
    """Return code and probability of the most likely language of each window; see
    `detect_language`."""
    found = detect_language(network, cross)
    return [max(window.items(), key=lambda item: item[1]) for window in found]


def spoken_languages(network: Network, cross: CrossKV[Any]) -> list[str | None]:
    """Return the most likely language of each window; None where the model has only one."""
    if not network.tokenizer.multilingual:
        return [None] * len(network.engine.array(cross.lengths))
    return [code for code, _ in likeliest_languages(network, cross)]


def detect_language(network: Network, cross: CrossKV[Any]) -> list[dict[str, float]]:
    """Return the probability of each language for each window.

    Raises `TyndaError` for a model with one language.
    """
    tokenizer = network.tokenizer
    if not tokenizer.multilingual:
        raise TyndaError("this model has one language: it cannot detect languages")
    items = len(network.engine.array(cross.lengths))
    decoder = Decoder(network, cross, items, 1)
    logits = decoder.step([[tokenizer.sot]] * items)
    codes, tokens = list(tokenizer.languages), list(tokenizer.languages.values())
    probs = np.exp(log_softmax(logits[:, tokens]))
    return [dict(zip(codes, map(float, row), strict=True)) for row in probs]


def decode(
    network: Network,
    cross: CrossKV[Any],
    options: Options,
    languages: Sequence[str | None],
    *,
    temperature: float = 0.0,
    prompt: Sequence[int] = (),
    prefix: Sequence[int] = (),
    random: RandomSource | None = None,
) -> list[DecodingResult]:
    """Return the most likely text of each window, found at one ``temperature``.

    ``languages`` has the code of each window's language, None for a model with one language.
    ``prompt`` has the tokens of a previous text; ``prefix`` has the first tokens of the text of
    every window. ``random`` is the generator of the recording; the default is a new one. Only those
    ``options`` that concern a single window are used. Raises `TyndaError` for an unknown language,
    and for a prompt that is too long.
    """
    tokenizer = network.tokenizer
    beams = options.beam_size if temperature == 0 else None
    rows_per_window = beams or (options.best_of if temperature > 0 else None) or 1
    max_tokens = options.max_new_tokens or network.config.context // 2
    prompts = [_initial_tokens(network, options, x, prompt, prefix) for x in languages]
    prompt_length = len(prompts[0])
    if prompt_length >= network.config.context:
        raise TyndaError(
            f"prompt, hot words and prefix have {prompt_length} tokens, but the model's maximum is "
            f"{network.config.context - 1}: shorten them"
        )
    decoder = Decoder(network, cross, len(prompts), prompt_length + max_tokens)
    logits = decoder.step(prompts)
    no_speech = np.zeros(len(prompts), np.float32)
    if tokenizer.no_speech is not None:
        at_start = decoder.logits_at(prompts[0].index(tokenizer.sot))
        no_speech = np.exp(log_softmax(at_start))[:, tokenizer.no_speech]
    decoder.repeat_rows(rows_per_window)
    logits = np.repeat(logits, rows_per_window, axis=0)

    texts: list[list[int]] = [[] for _ in logits]
    rules = Rules(network.tokenizer, network.config.vocab, options)
    search = (
        BeamSearch(beams, options.patience, tokenizer.eot)
        if beams
        else Sampler(temperature, random or RandomSource(options.seed), tokenizer.eot)
    )
    sums = np.zeros(len(texts), np.float32)
    found: dict[int, list[tuple[list[int], float]]] = {}
    windows = list(range(len(prompts)))  # those of the rows: the others have ended
    # The last token does not run through the decoder, so that it may exceed the context by one.
    count = min(max_tokens, network.config.context - prompt_length + 1)
    log_probs = network.log_probs(logits)
    for step in range(count):
        rules.apply(logits, texts)
        sources, tokens, done = search.choose(log_probs(logits), sums, texts)
        texts = [[*texts[s], t] for s, t in zip(sources, tokens, strict=True)]
        if done or step + 1 == count:
            break
        going = search.going(texts, rows_per_window)
        if 2 * len(going) <= len(windows):  # copying their keys and values pays
            found |= zip(windows, search.finish(texts, sums, rows_per_window), strict=True)
            rows = [w * rows_per_window + i for w in going for i in range(rows_per_window)]
            windows, texts = [windows[w] for w in going], [texts[row] for row in rows]
            tokens, sums = [tokens[row] for row in rows], sums[rows]
            sources = list(range(len(rows)))
            decoder.keep(going, rows)
            log_probs = network.log_probs(logits[rows])
        logits = decoder.step([[t] for t in tokens], sources)

    found |= zip(windows, search.finish(texts, sums, rows_per_window), strict=True)
    results = []
    for i, candidates in sorted(found.items()):
        best, total = max(candidates, key=lambda c: c[1] / _penalty(len(c[0]), options))
        results.append(
            DecodingResult(
                best,
                tokenizer.decode(best).strip(),
                languages[i],
                total / (len(best) + 1),
                float(no_speech[i]),
                temperature,
            )
        )
    return results


def _penalty(length: int, options: Options) -> float:
    if options.length_penalty is None:
        return max(length, 1)
    return float(((5 + length) / 6) ** options.length_penalty)


def _initial_tokens(
    network: Network,
    options: Options,
    language: str | None,
    prompt: Sequence[int],
    prefix: Sequence[int],
) -> list[int]:
    """Return the tokens that precede the generated text (section 2.3, figure 1)."""
    tokenizer = network.tokenizer
    tokens = start_tokens(tokenizer, language, options.task)
    if options.without_timestamps and tokenizer.timestamp_begin is not None:
        tokens.append(tokenizer.no_timestamps)
    tokens += prefix
    if prompt:
        tokens = [tokenizer.sot_prev, *prompt[1 - network.config.context // 2 :], *tokens]
    return tokens


def start_tokens(tokenizer: Any, language: str | None, task: str) -> list[int]:
    """Return the tokens of start, language and task. Raises `TyndaError` for an unknown
    language."""
    if not tokenizer.multilingual:
        return [tokenizer.sot]
    if language not in tokenizer.languages:
        raise TyndaError(
            f"the model does not know the language {language!r}; it knows "
            + ", ".join(tokenizer.languages)
        )
    task_token = tokenizer.transcribe if task == "transcribe" else tokenizer.translate
    return [tokenizer.sot, tokenizer.languages[language], task_token]


class Decoder:
    """The state of the decoder network between steps: its KV cache and positions."""

    def __init__(self, network: Network, cross: CrossKV[Any], rows: int, length: int) -> None:
        self._network, self._cross = network, cross
        self._cache = network.cache(rows, min(length, network.config.context))
        self._starts = np.zeros(rows, np.int64)
        self._states: Floats
        self._run: Callable[..., Any] | None = None
        self._shape: tuple[int, ...] = ()  # of the tokens of the run

    def step(self, tokens: Sequence[Sequence[int]], sources: Sequence[int] = ()) -> Floats:
        """Run one step on the new ``tokens [rows, n]``; return the logits ``[rows, vocab]`` of the
        next tokens, which the next step overwrites.

        ``sources`` has the index of the row that each row continues; the default is itself.
        """
        if list(sources) != list(range(len(sources))):
            self._reorder(np.array(sources))
        array, new = self._network.engine.array, np.array(tokens, np.int64)
        if self._run is None or new.shape != self._shape:
            self._run = self._network.stepper(new, self._starts, self._cross, self._cache)
            self._shape = new.shape
        states, logits, _ = self._run(new, self._starts)
        self._starts = self._starts + new.shape[1]
        self._states = array(states)
        return array(logits)

    def logits_at(self, position: int) -> Floats:
        """Return the logits ``[rows, vocab]`` after one of the tokens of the last step."""
        return self._network.logits(np.ascontiguousarray(self._states[:, position]))

    def repeat_rows(self, count: int) -> None:
        """Repeat each row ``count`` times."""
        if count > 1:
            self._reorder(np.repeat(np.arange(len(self._starts)), count))

    def keep(self, windows: Sequence[int], rows: Sequence[int]) -> None:
        """Go on with these windows alone, of which there are these rows."""
        self._cross = self._network.select(self._cross, np.array(windows))
        self._reorder(np.array(rows))

    def _reorder(self, rows: NDArray[np.int64]) -> None:
        self._cache = self._network.select(self._cache, rows)
        self._starts = self._starts[rows]
        self._run = None  # It has the former cache.
