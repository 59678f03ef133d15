"""Training of a hybrid model: mixtures, alignment, network, n-gram, finished file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tynda import manifest, models
from tynda.errors import TyndaError
from tynda.evaluation import evaluate
from tynda.files import write_whole
from tynda.heads.ctc import ngram
from tynda.heads.hybrid.head import HybridHead
from tynda.heads.hybrid.lexicon import Spelling
from tynda.heads.hybrid.states import Tying
from tynda.hybrid import boltzmann, features
from tynda.hybrid.dictionary import Dictionary
from tynda.hybrid.mixtures import Mixtures
from tynda.hybrid.network import Example, log_priors, train, without_priors
from tynda.hybrid.recipe import Hybrid
from tynda.hybrid.stages import Acoustics, Spoken, Stages, pronounced
from tynda.model import Model, load
from tynda.score import score
from tynda.sound import audio, frontend
from tynda.sound.frontend import FrontEnd
from tynda.store import checkpoint
from tynda.store.checkpoint import Header
from tynda.text.normalize import english_letters
from tynda.train.augment import distort
from tynda.train.data import SHORTEST, Corpus, read_sources
from tynda.train.start import shared_weights
from tynda.weights.weight import Weight

__all__ = ["Run", "read_stages", "write_stages"]

Floats = NDArray[np.float32]
Integers = NDArray[np.int64]

_STAGES = "mixtures.npz"
_PRETRAINED_FRAMES = 400_000
_GRID = {
    "alpha": (4.0, 6.0, 8.0, 10.0, 12.0),
    "beta": (-8.0, 0.0, 8.0),
}
_BEAM_SIZE = 500


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Run:
    """One training by a recipe, in a folder of its own."""

    def __init__(
        self,
        recipe: Hybrid,
        data: Path,
        folder: Path,
        *,
        command: str = "",
        init: Path | None = None,
        resume: bool = False,
        report: Callable[[str], None] = _say,
    ) -> None:
        """Read manifests, dictionary and recordings.

        The network begins with the tensors of the model file ``init`` that it has too, among which
        are those of all its layers. With ``resume``, the mixtures that the folder has are used.
        Raises `TyndaError` where no utterance can be used.
        """
        self.recipe, self.data, self.folder = recipe, data, folder
        self.command, self.init, self.resume, self.report = command, init, resume, report
        sources = recipe.data.train
        utterances, _ = read_sources(data, sources, recipe.data.exclude_speakers)
        self.corpus = Corpus(utterances, folder / "cache")
        lm_sources = [source for source in sources if source.lm]
        if not lm_sources:
            raise TyndaError("the n-gram has no training texts: set lm = true for a source")
        lm_texts, _ = read_sources(data, lm_sources, recipe.data.exclude_speakers)
        texts = [english_letters(u.text) for u in utterances]
        words = [word for text in texts for word in text.split()]
        name = recipe.dictionary
        self.lexicon = pronounced(words, Dictionary(data / name if name else None))
        self.sentences = sorted({t for u in lm_texts if (t := english_letters(u.text))})
        self.chosen = [
            i
            for i, text in enumerate(texts)
            if text
            and SHORTEST <= self.corpus.seconds(i) <= recipe.data.max_seconds
            and all(word in self.lexicon for word in text.split())
        ]
        if not self.chosen:
            raise TyndaError("no utterance can be used: texts and recordings do not fit")
        self.speech = [
            Spoken(
                features.features(self.corpus.samples(i)),
                texts[i].split(),
                [self.lexicon[word] for word in texts[i].split()],
                utterances[i].speaker or "-",
            )
            for i in self.chosen
        ]

    def run(self) -> Path:
        """Train, store and score the model; return its file."""
        acoustics = self.mixtures()
        front, config, weights = self.network(acoustics.tying.count)
        return self.finish(acoustics.tying, front, config, weights)

    def mixtures(self) -> Acoustics:
        """Return triphones, with all utterances aligned by them."""
        path = self.folder / _STAGES
        if self.resume and path.exists():
            return read_stages(path, self.speech)
        settings = self.recipe.mixtures
        acoustics = Stages(self.speech, settings.states, settings.components, self.report).run()
        write_stages(path, acoustics, self.speech)
        return acoustics

    def network(self, states: int) -> tuple[FrontEnd, Any, dict[str, Floats | Weight]]:
        """Train the network on the alignment; return its front end, config and weights."""
        recipe = self.recipe
        front = frontend.from_config(recipe.frontend)
        family = models.family(recipe.family)
        config = family.configure({**recipe.model, "bins": front.bins, "vocab": states})
        priors = log_priors([s.path for s in self.speech if s.path is not None], states)
        start: dict[str, Tensor | Floats] = {}
        if self.init:
            start |= shared_weights(self.init, family, config, "model.encoder")
            if "head.bias" in start:  # A hybrid model has lost them, and learns with them again.
                start["head.bias"] = np.asarray(start["head.bias"]) + priors
        examples = self._examples(front)
        if recipe.pretrain:
            settings = recipe.pretrain
            frames = np.concatenate(
                [boltzmann.spliced(e[0][0], config.splice, config.stride) for e in examples]
            )
            frames = frames[:: 1 + len(frames) // _PRETRAINED_FRAMES]
            widths = [config.channels] * (config.layers + 1)
            machines = boltzmann.pretrain(
                frames, widths, settings.epochs, settings.lr, recipe.optimizer.seed, self.report
            )
            start |= boltzmann.as_network(machines, front.bins)
        batch = round(recipe.data.batch_seconds * frontend.SAMPLE_RATE / front.hop)
        weights = train(
            (family, config),
            examples,
            recipe.optimizer,
            recipe.augment,
            batch,
            start,
            recipe.rounding,
            self.report,
        )
        return front, config, without_priors(weights, priors)

    def _examples(self, front: FrontEnd) -> list[Example]:
        """Return augmented views of all aligned utterances, with the states of their frames."""
        rng = np.random.default_rng(self.recipe.optimizer.seed)
        examples: list[Example] = []
        for i, spoken in zip(self.chosen, self.speech, strict=True):
            if spoken.path is None:
                continue
            samples = self.corpus.samples(i)
            views = []
            for _ in range(self.recipe.views):
                values = front(distort(samples, self.recipe.augment, [], [], rng))
                # Another speed has other frames: each gets the state at the same share of time.
                at = (np.arange(len(values)) + 0.5) * len(spoken.path) / max(1, len(values))
                views.append((values, spoken.path[at.astype(np.int64)]))
            examples.append(views)
        return examples

    def finish(
        self, tying: Tying, front: FrontEnd, config: Any, weights: Mapping[str, Floats | Weight]
    ) -> Path:
        """Store the model with an n-gram, tune it on the dev manifests, and score it there."""
        recipe = self.recipe
        arpa = ngram.train(self.sentences, recipe.lm.order, recipe.lm.prune)
        packed = ngram.pack(arpa)
        header = Header(
            recipe.name,
            recipe.family,
            {k: v for k, v in asdict(config).items()},
            front.config,
            Spelling(self.lexicon, tying).to_dict(),
            [recipe.language],
            recipe.licence,
            {"beam_size": _BEAM_SIZE},
            {"command": self.command, "recipe": json.loads(json.dumps(asdict(recipe)))},
        )
        path = self.folder / f"{recipe.name}.safetensors"
        checkpoint.save_model(path, header, weights, bits=recipe.bits, lm=packed)
        dev = [self.data / name for name in recipe.data.dev]
        best = tune(load(path), dev, recipe.lm.tune_utterances, self.report)
        header = replace(header, decoding=header.decoding | best)
        checkpoint.save_model(path, header, weights, bits=recipe.bits, lm=packed)
        found = evaluate(load(path), dev)
        rates = {n: {"wer": s.wer, "cer": s.cer} for n, s in found.sources.items()}
        header = replace(header, scores=rates)
        checkpoint.save_model(path, header, weights, bits=recipe.bits, lm=packed)
        return path


def tune(
    model: Model, manifests: Sequence[Path], count: int, report: Callable[[str], None]
) -> dict[str, float]:
    """Return the settings of the search with the least WER on about ``count`` utterances.

    The weight of the n-gram is chosen first, then the bonus for words.
    """
    utterances = [u for path in manifests for u in manifest.read(path)]
    head = model.head
    if not isinstance(head, HybridHead):
        raise TypeError(f"{model.header.name} has no search of words")
    spoken = []
    for u in utterances[:: max(1, len(utterances) // count)]:
        with suppress(TyndaError):  # Recordings that cannot be read are named by the evaluation.
            spoken.append((english_letters(u.text), model.encode(audio.load(u.audio))))
    best: dict[str, float] = {"beta": 0.0}
    for name in ("alpha", "beta"):
        rated = []
        for value in _GRID[name]:
            options = model.options(**{**best, name: value})
            pairs = [(text, head.decode(x, options)[0].text) for text, x in spoken]
            rated.append((score(pairs).wer or 0.0, value))
        best[name] = min(rated)[1]
        report(f"{name}: " + ", ".join(f"{value:g} WER {wer:.4f}" for wer, value in rated))
    return best


def write_stages(path: Path, acoustics: Acoustics, speech: Sequence[Spoken]) -> None:
    """Write triphones and alignment to a file, for `read_stages`."""
    file = io.BytesIO()
    mixtures = acoustics.mixtures
    paths = [np.zeros(0, np.int64) if s.path is None else s.path for s in speech]
    np.savez(
        file,
        tying=np.frombuffer(json.dumps(acoustics.tying.to_dict()).encode(), np.uint8),
        log_weights=mixtures.log_weights,
        means=mixtures.means,
        variances=mixtures.variances,
        paths=np.concatenate(paths).astype(np.int32),
        lengths=np.array([len(p) for p in paths]),
        frames=np.array([len(s.features) for s in speech]),
    )
    write_whole(path, file.getvalue())


def read_stages(path: Path, speech: Sequence[Spoken]) -> Acoustics:
    """Read what `write_stages` wrote, and align the utterances of ``speech``, which must be the
    same. Raises `TyndaError` for others, and for a damaged file."""
    try:
        with np.load(path) as data:
            values = dict(data)
        tying = Tying.from_dict(json.loads(values["tying"].tobytes()))
        mixtures = Mixtures(values["log_weights"], values["means"], values["variances"])
        paths = np.split(values["paths"].astype(np.int64), np.cumsum(values["lengths"])[:-1])
    except (OSError, ValueError, KeyError, EOFError):
        raise TyndaError(f"{path} is damaged: train without --resume") from None
    if values["frames"].tolist() != [len(s.features) for s in speech]:
        raise TyndaError(f"{path} belongs to other recordings: train without --resume")
    for spoken, states in zip(speech, paths, strict=True):
        spoken.path = states if len(states) else None
    return Acoustics(tying, mixtures)
