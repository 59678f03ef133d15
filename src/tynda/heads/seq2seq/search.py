"""The decoder over one window of sound, or several windows at once.

Radford et al. 2022, section 4.5 and the reference implementation (openai/whisper,
``decoding.py``), whose option names and results these are: greedy, sampling or beam search,
under rules for time stamps and with tokens that are never said.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.compile.engine import Engine
from tynda.errors import TyndaError
from tynda.heads.seq2seq import programs
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import Rules, log_softmax
from tynda.models.base import CrossKV, Family, KVCache
from tynda.transcript import Segment, Word

__all__ = [
    "DecodingResult",
    "Network",
    "RandomSource",
    "compression_ratio",
    "decode",
    "detect_language",
    "start_tokens",
]

Floats = NDArray[np.float32]
Cache = KVCache[Any] | None


@dataclass(frozen=True)
class DecodingResult:
    """The text of one window."""

    tokens: list[int]
    """Without the prompt and the end."""
    text: str
    language: str | None
    avg_logprob: float
    """Mean log-probability of a token, the end included."""
    no_speech_prob: float
    """0 where the model has no token for it."""
    temperature: float

    @property
    def compression_ratio(self) -> float:
        """High where a text repeats itself."""
        return compression_ratio(self.text)

    def segment(
        self,
        start: float,
        end: float,
        text: str,
        tokens: Sequence[int],
        words: Sequence[Word] = (),
        **details: float,
    ) -> Segment:
        """A part of the window as a `Segment`, from ``start`` to ``end`` in seconds.

        ``details`` are added to those that every decoder gives.
        """
        common = {
            "tokens": tokens,
            "temperature": self.temperature,
            "avg_logprob": round(self.avg_logprob, 4),
            "compression_ratio": round(self.compression_ratio, 4),
        }
        confidence = float(np.exp(self.avg_logprob))
        return Segment(start, end, text, list(words), confidence, details={**common, **details})


class RandomSource:
    """The random numbers of a recording, by which its tokens are drawn above temperature 0."""

    def __init__(self, seed: int) -> None:
        self._seed = seed

    @cached_property
    def generator(self) -> np.random.Generator:
        """The generator, made on first use, since NumPy is slow to import its generators."""
        return np.random.default_rng(self._seed)


def compression_ratio(text: str) -> float:
    """Bytes of the text over bytes of the same text deflated."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


@dataclass(frozen=True)
class Network:
    """A model with a decoder, ready to run."""

    engine: Engine
    family: Family
    config: Any
    tokenizer: Any
    alignment_heads: Sequence[tuple[int, int]]
    """Layer and head of the cross-attention that follows the sound."""

    def encode(self, features: Floats, lengths: NDArray[np.int64]) -> tuple[Any, Any]:
        """Features ``[batch, frames, bins]`` and frames that count -> states and their lengths,
        both the backend's own."""
        encode = self.family.programs["encode"]
        encoded: tuple[Any, Any] = self.engine.run(encode, self.config, features, lengths)
        return encoded

    def cross_kv(self, states: Any, lengths: Any) -> CrossKV[Any]:
        """Keys and values of encoded sound."""
        program = self.family.programs["cross_kv"]
        cross: CrossKV[Any] = self.engine.run(program, self.config, states, lengths)
        return cross

    def step(
        self, tokens: NDArray[np.int64], starts: Any, cross: CrossKV[Any], cache: Cache
    ) -> tuple[Any, Any, Cache]:
        """States, logits of what follows and the cache, see ``programs.step``."""
        stepped: tuple[Any, Any, Cache] = self.engine.run(
            programs.step, (self.family, self.config), tokens, starts, cross, cache
        )
        return stepped

    def logits(self, states: Floats) -> Floats:
        """Logits ``[..., vocab]`` behind states ``[..., channels]``."""
        logits = self.engine.run(self.family.programs["logits"], self.config, states)
        return self.engine.array(logits)

    def select(self, part: Any, items: NDArray[np.int64]) -> Any:
        """The rows of a `KVCache`, or the items of a `CrossKV`, of these numbers."""
        return self.engine.run(programs.select, None, part, items)

    def cache(self, rows: int, capacity: int) -> KVCache[Any]:
        """An empty cache of float32 zeros."""
        return programs.cache(self.config, rows, capacity, partial(np.zeros, dtype=np.float32))


def detect_language(network: Network, cross: CrossKV[Any]) -> list[dict[str, float]]:
    """The probability of each language, for each window.

    Raises `TyndaError` for a model of one language.
    """
    tokenizer = network.tokenizer
    if not tokenizer.multilingual:
        raise TyndaError("this model knows one language: there is none to detect")
    items = len(network.engine.array(cross.lengths))
    decoder = _Decoder(network, cross, items, 1)
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
    """The likeliest text of each window, at one ``temperature``.

    ``languages`` are codes (None for a model of one language); ``prompt`` are tokens of a
    text that came before; ``prefix`` begins the text of every window; ``dice`` belong to the
    recording, or are new by default. Of ``options``, those count that are about one window.
    Raises `TyndaError` for an unknown language.
    """
    tokenizer = network.tokenizer
    beams = options.beam_size if temperature == 0 else None
    rows_per_window = beams or (options.best_of if temperature > 0 else None) or 1
    max_tokens = options.max_new_tokens or network.config.context // 2
    prompts = [_initial_tokens(network, options, x, prompt, prefix, max_tokens) for x in languages]
    prompt_length = len(prompts[0])
    if prompt_length >= network.config.context:
        raise TyndaError(
            f"prompt, hot words and prefix take {prompt_length} tokens, and the model has room for "
            f"{network.config.context - 1}: shorten them"
        )
    decoder = _Decoder(network, cross, len(prompts), prompt_length + max_tokens)
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
        _BeamSearch(beams, options.patience, tokenizer.eot)
        if beams
        else _Sampler(temperature, random or RandomSource(options.seed), tokenizer.eot)
    )
    sums = np.zeros(len(texts), np.float32)
    # The last token needs no room: nothing follows it.
    count = min(max_tokens, network.config.context - prompt_length + 1)
    for step in range(count):
        rules.apply(logits, texts)
        sources, tokens, done = search.choose(log_softmax(logits), sums, texts)
        texts = [[*texts[s], t] for s, t in zip(sources, tokens, strict=True)]
        if done or step + 1 == count:
            break
        logits = decoder.step([[t] for t in tokens], sources)

    windows = []
    for i, candidates in enumerate(search.finish(texts, sums, rows_per_window)):
        best, total = max(candidates, key=lambda c: c[1] / _penalty(len(c[0]), options))
        windows.append(
            DecodingResult(
                best,
                tokenizer.decode(best).strip(),
                languages[i],
                total / (len(best) + 1),
                float(no_speech[i]),
                temperature,
            )
        )
    return windows


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
    max_tokens: int,
) -> list[int]:
    """The tokens that the decoder starts from (section 2.3, figure 1)."""
    tokenizer, half = network.tokenizer, network.config.context // 2
    tokens = start_tokens(tokenizer, language, options.task)
    if options.without_timestamps and tokenizer.timestamp_begin is not None:
        tokens.append(tokenizer.no_timestamps)
    tokens += list(prefix)[-max(half - max_tokens, 0) :]  # -0: all of it
    if prompt:
        tokens = [tokenizer.sot_prev, *prompt[-(half - 1) :], *tokens]
    return tokens


def start_tokens(tokenizer: Any, language: str | None, task: str) -> list[int]:
    """Start, language and task. Raises `TyndaError` for an unknown language."""
    if not tokenizer.multilingual:
        return [tokenizer.sot]
    if language not in tokenizer.languages:
        raise TyndaError(
            f"the model does not know the language {language!r}; it knows "
            + ", ".join(tokenizer.languages)
        )
    task_token = tokenizer.transcribe if task == "transcribe" else tokenizer.translate
    return [tokenizer.sot, tokenizer.languages[language], task_token]


class _Decoder:
    """The decoder network, one step after another, with its cache."""

    def __init__(self, network: Network, cross: CrossKV[Any], rows: int, length: int) -> None:
        self._network, self._cross = network, cross
        self._cache: Cache = network.cache(rows, min(length, network.config.context))
        self._starts = np.zeros(rows, np.int64)
        self._states: Floats

    def step(self, tokens: Sequence[Sequence[int]], sources: Sequence[int] = ()) -> Floats:
        """Logits ``[rows, vocab]`` behind the last of the new ``tokens [rows, n]``.

        ``sources`` names the row that each row continues, if it is another.
        """
        if list(sources) != list(range(len(sources))):
            self._reorder(np.array(sources))
        array, new = self._network.engine.array, np.array(tokens, np.int64)
        states, logits, self._cache = self._network.step(
            new, self._starts, self._cross, self._cache
        )
        self._starts = self._starts + new.shape[1]
        self._states = array(states)
        return np.array(array(logits))  # a copy: the rules write into it

    def logits_at(self, position: int) -> Floats:
        """Logits ``[rows, vocab]`` behind one of the tokens of the last call."""
        return self._network.logits(np.ascontiguousarray(self._states[:, position]))

    def repeat_rows(self, count: int) -> None:
        """Make ``group`` rows of each."""
        if count > 1:
            self._reorder(np.repeat(np.arange(len(self._starts)), count))

    def _reorder(self, rows: NDArray[np.int64]) -> None:
        self._cache = self._network.select(self._cache, rows)
        self._starts = self._starts[rows]


class _Sampler:
    """The best token, or one drawn at random, for every row on its own."""

    def __init__(self, temperature: float, random: RandomSource, eot: int) -> None:
        self._temperature, self._random, self._eot = temperature, random, eot

    def choose(
        self, log_probs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """The row that each new row continues, its token, and whether all rows have ended."""
        tokens = []
        for i, (row, text) in enumerate(zip(log_probs, texts, strict=True)):
            if text and text[-1] == self._eot:
                tokens.append(self._eot)
                continue
            token = int(np.argmax(self._perturbed(row)))
            sums[i] += row[token]
            tokens.append(token)
        return list(range(len(texts))), tokens, all(t == self._eot for t in tokens)

    def _perturbed(self, row: Floats) -> Floats:
        """The largest of logits with Gumbel noise is a draw from their softmax (Gumbel 1954)."""
        if self._temperature == 0:
            return row
        noise = self._random.generator.gumbel(size=len(row)).astype(np.float32)
        return row / np.float32(self._temperature) + noise

    def finish(
        self, texts: list[list[int]], sums: Floats, rows_per_window: int
    ) -> list[list[tuple[list[int], float]]]:
        """The candidates of each window: text and sum of log-probabilities."""
        rows = [
            (text[: text.index(self._eot)] if self._eot in text else text, float(total))
            for text, total in zip(texts, sums, strict=True)
        ]
        return [rows[i : i + rows_per_window] for i in range(0, len(rows), rows_per_window)]


class _BeamSearch:
    """Beam search: the best ``size`` continuations of each window go on."""

    def __init__(self, size: int, patience: float, eot: int) -> None:
        self._size, self._eot = size, eot
        self._max_finished = max(1, round(size * patience))
        self._finished: list[dict[tuple[int, ...], float]] = []

    def choose(
        self, log_probs: Floats, sums: Floats, texts: Sequence[Sequence[int]]
    ) -> tuple[list[int], list[int], bool]:
        """The row that each new row continues, its token, and whether the search has ended.

        ``sums`` become those of the new rows.
        """
        size = self._size
        if not self._finished:
            self._finished = [{} for _ in range(len(texts) // size)]
        sources, tokens, new_sums = [], [], []
        for item, finished in enumerate(self._finished):
            # Rows may say the same, as all do at first: each continuation counts once.
            candidates: dict[tuple[int, ...], tuple[float, int]] = {}
            for row in range(item * size, (item + 1) * size):
                best = np.argpartition(-log_probs[row], size)[: size + 1]
                for token in best[np.argsort(-log_probs[row][best], kind="stable")]:
                    key = (*texts[row], int(token))
                    candidates[key] = float(sums[row] + log_probs[row][token]), row
            kept, ended = 0, []
            for key, (total, row) in sorted(candidates.items(), key=lambda c: -c[1][0]):
                if key[-1] == self._eot:
                    ended.append((key[:-1], total))
                    continue
                sources.append(row)
                tokens.append(key[-1])
                new_sums.append(total)
                kept += 1
                if kept == size:
                    break
            for text, total in ended[: self._max_finished - len(finished)]:
                finished[text] = total
        sums[:] = new_sums
        return sources, tokens, all(len(f) >= self._max_finished for f in self._finished)

    def finish(
        self, texts: list[list[int]], sums: Floats, rows_per_window: int
    ) -> list[list[tuple[list[int], float]]]:
        """The candidates of each window; those that did not end fill up the missing ones."""
        result = []
        for item, finished in enumerate(self._finished):
            rows = range(item * rows_per_window, (item + 1) * rows_per_window)
            for row in sorted(rows, key=lambda r: -sums[r]):
                if len(finished) >= rows_per_window:
                    break
                finished[tuple(texts[row])] = float(sums[row])
            result.append([(list(text), total) for text, total in finished.items()])
        return result
