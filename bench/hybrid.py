"""Compare the stages of a hybrid model: mixtures, speaker adaptation, networks.

    python bench/hybrid.py decode RUN SYSTEM DATA MANIFEST -o TEXTS.json [--each N] [--model FILE]
    python bench/hybrid.py table TEXTS.json...

RUN is the folder of ``tynda train hybrid-en``, whose mixtures, lexicon and n-gram are used. SYSTEM:

- ``gmm``: the mixtures of triphones.
- ``gmm-fmllr``: two passes. The texts of the first align the speaker's recordings, from which a
  transform is estimated; the mixtures of the second are trained on transformed features.
- ``dnn``, ``dnn-pretrained``, ``dnn-fmllr``: a plain network over 11 frames of the same features,
  which is trained here: from random weights, from Boltzmann machines, or with the transforms.
- ``model``: the file of --model, by its own search.

The n-gram's weight is tuned on other utterances of the manifest. The table has WER by source, and
the paired difference of each system from the one before it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

import tynda
from tynda import manifest, models
from tynda.heads.ctc import ngram
from tynda.heads.ctc.ngram import LanguageModel
from tynda.heads.hybrid.alignment import Graph, TooShortError, best_path
from tynda.heads.hybrid.lexicon import Spelling
from tynda.heads.hybrid.prefixes import PrefixTree
from tynda.heads.hybrid.search import Search
from tynda.hybrid import adaptation, boltzmann
from tynda.hybrid import recipe as hybrid_recipe
from tynda.hybrid.features import SIZE, features
from tynda.hybrid.mixtures import Mixtures, fit
from tynda.hybrid.network import log_priors, train, without_priors
from tynda.hybrid.run import Run
from tynda.ops.numpy import NumpyOps
from tynda.score import change, score
from tynda.sound import audio
from tynda.text.normalize import english_letters
from tynda.train import recipe as recipes
from tynda.train.recipe import Augment, Optimizer

Floats = NDArray[np.float32]
STRIDE = 2
SPLICE = 11
ALPHAS = {"gmm": (8.0, 10.0, 12.0), "dnn": (5.0, 7.0, 9.0, 12.0)}
EPOCHS = 3
TUNED = 40


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Decoder:
    """The lexicon and n-gram of a finished model, for any scores of its states."""

    def __init__(self, run: Run, spelling: Spelling, lm: LanguageModel) -> None:
        self.run, self.spelling, self.lm = run, spelling, lm
        self.tree = PrefixTree.of(spelling, skip=True)

    def search(self, alpha: float) -> Search:
        return Search(self.tree, self.lm, alpha=alpha, beam_size=500, margin=12 * alpha)


def open_run(folder: Path, data: Path, name: str) -> tuple[Decoder, Mixtures]:
    recipe = hybrid_recipe.load(name, recipes.read_table(name))
    run = Run(recipe, data, folder, resume=True)
    acoustics = run.mixtures()
    spelling = Spelling(run.lexicon, acoustics.tying)
    lm = LanguageModel.from_arpa(ngram.train(run.sentences, recipe.lm.order, recipe.lm.prune))
    return Decoder(run, spelling, lm), acoustics.mixtures


def transforms_of_training(run: Run, mixtures: Mixtures) -> tuple[list[Floats], Mixtures]:
    """Return the adapted features of all training utterances, and mixtures trained on them."""
    speakers: dict[str, list[int]] = {}
    for i, spoken in enumerate(run.speech):
        if spoken.path is not None:
            speakers.setdefault(spoken.speaker, []).append(i)
    adapted = [spoken.features for spoken in run.speech]
    for members in speakers.values():
        # A hundred utterances are enough for a transform.
        some = members[:: 1 + len(members) // 100]
        speech = [(run.speech[i].features, run.speech[i].path) for i in some]
        transform = adaptation.estimate(speech, mixtures)
        for i in members:
            adapted[i] = adaptation.apply(transform, run.speech[i].features)
    values = np.concatenate([adapted[i] for m in speakers.values() for i in m])
    states = np.concatenate([run.speech[i].path for m in speakers.values() for i in m])
    say("transforms of the training speakers")
    return adapted, fit(values, states, len(mixtures), mixtures.means.shape[1], mixtures)


def transforms_of(
    speakers: list[str],
    values: list[Floats],
    texts: list[str],
    decoder: Decoder,
    plain: Mixtures,
    adapted: Mixtures,
) -> list[Floats]:
    """Return features adapted by the texts of a first pass, whose states ``plain`` aligns."""
    spelling, found = decoder.spelling, {}
    for speaker, x, text in zip(speakers, values, texts, strict=True):
        graph = Graph.of(spelling.pronunciations(text.split()), spelling.tying)
        states, columns = np.unique(graph.states, return_inverse=True)
        try:
            path, _ = best_path(plain.log_likelihoods(x, states)[:, columns], graph)
        except TooShortError:
            continue
        found.setdefault(speaker, []).append((x, graph.states[path]))
    transforms = {s: adaptation.estimate(speech, adapted) for s, speech in found.items()}
    return [
        adaptation.apply(transforms[s], x) if s in transforms else x
        for s, x in zip(speakers, values, strict=True)
    ]


def network(run: Run, inputs: list[Floats], *, pretrain: bool) -> Callable[[Floats], Floats]:
    """Train a plain network; return the function that scores states."""
    torch.set_num_threads(1)
    examples = [
        [(x, spoken.path)]
        for x, spoken in zip(inputs, run.speech, strict=True)
        if spoken.path is not None
    ]
    some = np.concatenate([e[0][0] for e in examples[::10]])
    mean, deviation = some.mean(0), some.std(0)
    examples = [[((x - mean) / deviation, states)] for [(x, states)] in examples]
    family = models.family("tdnn")
    count = 1 + max(int(e[0][1].max()) for e in examples)
    settings = {"channels": 256, "layers": 4, "splice": SPLICE, "width": 1, "plain": True}
    config = family.configure({**settings, "bins": SIZE, "vocab": count, "dropout": 0.0})
    start = None
    if pretrain:
        frames = [boltzmann.spliced(e[0][0], SPLICE, STRIDE * 2) for e in examples]
        machines = boltzmann.pretrain(np.concatenate(frames), [256] * 5, 2, 0.02, 42, say)
        start = boltzmann.as_network(machines, SIZE)
    optimizer = Optimizer(EPOCHS, lr=1e-3, warmup_steps=100, cooldown=0.7, average=0.99)
    weights = train((family, config), examples, optimizer, Augment(), 4000, start, report=say)
    weights = without_priors(weights, log_priors([e[0][1] for e in examples], count))
    ops, encode = NumpyOps(), family.programs["encode"]

    def scores(x: Floats) -> Floats:
        x = (x - mean) / deviation
        return encode(ops, weights, config, x[None], np.array([len(x)]))[0][0]

    return scores


def decode(args: argparse.Namespace) -> None:
    every = manifest.read(args.data / args.manifest)
    chosen = every[:: args.each]
    rest = [u for u in every[1 :: args.each] if args.each > 1] or every
    rest = rest[:: max(1, len(rest) // TUNED)]
    references = [english_letters(u.text) for u in chosen]
    if args.system == "model":
        model = tynda.load(args.model)
        sounds = [audio.load(u.audio) for u in chosen]
        model.prepare()
        started = time.perf_counter()
        texts = [english_letters(model.transcribe(x).text) for x in sounds]
        write(args, chosen, references, texts, time.perf_counter() - started, model.bytes)
        return
    decoder, plain = open_run(args.run, args.data, args.recipe)
    if args.system.startswith("dnn"):
        inputs = [s.features for s in decoder.run.speech]
    if args.system.endswith("fmllr"):
        inputs, adapted = transforms_of_training(decoder.run, plain)
    if args.system.startswith("dnn"):
        scores = network(decoder.run, inputs, pretrain=args.system == "dnn-pretrained")
    else:
        mixtures = adapted if args.system.endswith("fmllr") else plain

        def scores(x: Floats) -> Floats:
            return mixtures.log_likelihoods(x[::STRIDE])

    def first_pass(values: list[Floats]) -> list[str]:
        search = decoder.search(ALPHAS["gmm"][1])
        return [" ".join(search.find(plain.log_likelihoods(x[::STRIDE]))[0]) for x in values]

    def prepared(utterances: list[manifest.Utterance]) -> list[Floats]:
        values = [features(audio.load(u.audio)) for u in utterances]
        if not args.system.endswith("fmllr"):
            return values
        speakers = [u.speaker or "-" for u in utterances]
        return transforms_of(speakers, values, first_pass(values), decoder, plain, adapted)

    # A speaker's transform is estimated from all of the recordings that are decoded.
    both = prepared([*chosen, *rest])
    tuned = [scores(x) for x in both[len(chosen) :]]
    said = [english_letters(u.text) for u in rest]
    rated = []
    for alpha in ALPHAS[args.system[:3]]:
        search = decoder.search(alpha)
        pairs = [(r, " ".join(search.find(x)[0])) for r, x in zip(said, tuned, strict=True)]
        rated.append((score(pairs).wer, alpha))
        say(f"alpha {alpha:g}: WER {rated[-1][0]:.4f}")
    search = decoder.search(min(rated)[1])
    started = time.perf_counter()
    texts = [" ".join(search.find(scores(x))[0]) for x in both[: len(chosen)]]
    write(args, chosen, references, texts, time.perf_counter() - started, None)


def write(
    args: argparse.Namespace,
    chosen: list[manifest.Utterance],
    references: list[str],
    texts: list[str],
    seconds: float,
    size: int | None,
) -> None:
    speech = sum(u.duration or 0 for u in chosen)
    rows = zip([u.source for u in chosen], references, texts, strict=True)
    found = {
        "system": Path(args.model).stem if args.model else args.system,
        "bytes": size,
        "real_time_factor": seconds / speech,
        "texts": list(rows),
    }
    args.output.write_text(json.dumps(found))
    say(f"{found['system']}: WER {score((r, t) for _, r, t in found['texts']).wer:.4f}")


def table(args: argparse.Namespace) -> None:
    before = None
    sources: list[str] = []
    for path in args.texts:
        found = json.loads(path.read_text())
        if not sources:
            sources = sorted({source for source, _, _ in found["texts"]})
            print(f"| system | {' | '.join(sources)} | all | change | RTF |")
            print("|---" * (len(sources) + 4) + "|")
        pairs = [(r, t) for _, r, t in found["texts"]]
        rates = [score((r, t) for s, r, t in found["texts"] if s == name).wer for name in sources]
        cells = [f"{rate:.4f}" for rate in [*rates, score(pairs).wer]]
        step = "" if before is None else change(before, pairs)
        if step:
            step = f"{step.wer:+.4f} ({step.low:+.4f} to {step.high:+.4f})"
        print(
            f"| {found['system']} | {' | '.join(cells)} | {step} | "
            f"{found['real_time_factor']:.3f} |"
        )
        before = pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("decode")
    one.add_argument("run", type=Path)
    one.add_argument("system")
    one.add_argument("data", type=Path)
    one.add_argument("manifest")
    one.add_argument("-o", "--output", type=Path, required=True)
    one.add_argument("--each", type=int, default=1, help="decode every N-th utterance")
    one.add_argument("--model", help="model file of the system 'model'")
    one.add_argument("--recipe", default="hybrid-en")
    one.set_defaults(call=decode)
    many = commands.add_parser("table")
    many.add_argument("texts", type=Path, nargs="+")
    many.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
