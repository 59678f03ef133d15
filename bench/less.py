"""Adapt a model to a kind of speech on a part of a pool, chosen by `tynda select` or by chance.

    python bench/less.py prepare DATA FOLDER --ages SPK2AGE [--pool 400]
    python bench/less.py run FOLDER MODEL [--kinds prompts children noise] [--seeds 0 1 2]
    python bench/less.py table FOLDER [MODEL...]
    python bench/less.py adapt MODEL MANIFEST TEST...
    python bench/less.py likeness FOLDER MODEL [--kinds prompts children noise]

DATA has the manifests of ``docs/training.md``; SPK2AGE is ``test/spk2age`` of speechocean762, the
ages of the speakers of its test half, of whom ``dev.jsonl`` has 63. ``prepare`` writes to FOLDER

- ``pool.jsonl``: a fifth each of Asterisk's prompts, of prompts read by one or two native voices,
  and of speech with background noise (0 to 10 dB); two fifths learners of English of all ages;
- for each kind of speech ``KIND-target.jsonl``, with which recordings are compared, and
  ``KIND-test.jsonl``, which is only scored. Prompts (other texts than in the pool), children (up to
  12 years; other people in pool, target and test) and noise (0 to 5 dB; other people or texts, and
  other noises). No recording of ``dev.jsonl`` is in the pool.

``run`` adapts the model for some epochs with AdamW, without augmentation, on each choice, and adds
a line with the texts of the test to ``FOLDER/MODEL.jsonl``; what is there is not repeated. All of
the pool is learnt with the first seed alone. CTC models are decoded greedily. ``table`` prints WER
by kind and choice; ``adapt`` the WER on each TEST before and after the same epochs on any MANIFEST
(``docs/label.md``); ``likeness`` the mean cosine of the gradients of two recordings of a target,
and of one of them and one of each part of the pool.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import tynda
from tynda import manifest
from tynda.manifest import Utterance
from tynda.model import Model
from tynda.score import errors
from tynda.sound import audio
from tynda.sound.audio import SAMPLE_RATE
from tynda.store import library
from tynda.text.normalize import english_letters
from tynda.train.augment import add_noise
from tynda.train.select import select
from tynda.train.select.features import FeatureFile, key_of
from tynda.train.select.learner import UnusableError, learner_of
from tynda.train.select.run import SIZE

Floats = NDArray[np.float32]

KINDS = ("prompts", "children", "noise")
STEADY = ("rain", "sea_waves", "helicopter", "chainsaw", "fire_crackling")
CHILD = 12
EPOCHS, BATCH = 3, 4
RATES = {"ctc": 2e-4, "seq2seq": 4e-5}
FIRST = [("gradients", 0.1), ("random", 0.1), ("all", 1.0), ("embeddings", 0.1)]
REPEATED = [("gradients", 0.1), ("random", 0.1), ("embeddings", 0.1)]
REST = [(by, share) for share in (0.25, 0.05) for by in ("gradients", "random", "embeddings")]


def number(*names: object) -> int:
    """A number that depends on the names alone."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:6])


def shuffled(utterances: Sequence[Utterance]) -> list[Utterance]:
    return sorted(utterances, key=lambda u: number(u.audio.name))


def each(utterances: Sequence[Utterance], count: int) -> list[Utterance]:
    """Return as many recordings of each speaker as make up the count."""
    people: dict[str | None, list[Utterance]] = {}
    for u in shuffled(utterances):
        people.setdefault(u.speaker, []).append(u)
    rounds = range(max(map(len, people.values())))
    order = [mine[i] for i in rounds for mine in people.values() if i < len(mine)]
    return order[:count]


def write(path: Path, utterances: Sequence[Utterance], kind: str) -> None:
    lines = [
        {
            "audio_filepath": str(u.audio),
            "text": u.text,
            "duration": u.duration,
            "speaker": u.speaker,
            "language": "en",
            "source": kind,
        }
        for u in utterances
    ]
    path.write_bytes(b"".join(map(manifest.line, lines)))


def in_noise(
    utterances: Sequence[Utterance],
    noises: Sequence[Utterance],
    folder: Path,
    snr: tuple[float, float],
) -> list[Utterance]:
    import wave

    folder.mkdir(parents=True, exist_ok=True)
    out = []
    for u in utterances:
        rng = np.random.default_rng(number("noise", u.audio.name))
        noise = audio.load(noises[int(rng.integers(len(noises)))].audio)
        samples = add_noise(audio.load(u.audio), noise, rng.uniform(*snr), rng)
        path = folder / f"{u.audio.stem}.wav"
        with wave.open(str(path), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(SAMPLE_RATE)
            file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
        out.append(replace(u, audio=path))
    return out


def prepare(data: Path, folder: Path, ages: Path, size: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    age = {k: int(v) for k, v in (x.split() for x in ages.read_text().splitlines())}
    train, dev = manifest.read(data / "train.jsonl"), manifest.read(data / "dev.jsonl")
    prompts = manifest.read(data / "prompts_en.jsonl")
    learners = shuffled([u for u in train if u.source == "speechocean762"])
    natives = shuffled([u for u in train if u.source != "speechocean762"])
    noises = [
        u
        for u in manifest.read(data / "noise.jsonl")
        if u.audio.name.removeprefix("esc10_").startswith(STEADY)
    ]

    def split(items: Sequence[Utterance], key: Callable[[Utterance], object]) -> Iterator[Any]:
        """Half, a quarter, a quarter."""
        parts = [number(key(u)) % 4 for u in items]
        for which in ((0, 1), (2,), (3,)):
            yield [u for u, part in zip(items, parts, strict=True) if part in which]

    fifth = size // 5
    pool_prompts, target, test = split(prompts, lambda u: english_letters(u.text))
    write(folder / "prompts-target.jsonl", shuffled(target)[:40], "prompts")
    write(folder / "prompts-test.jsonl", shuffled(test)[:100], "prompts")
    people = sorted({u.speaker for u in dev if u.source == "speechocean762"}, key=number)
    children = [p for p in people if age[p or ""] <= CHILD]
    adults = [p for p in people if age[p or ""] > CHILD]
    for name, who, count in (("target", children[::2], 40), ("test", children[1::2], 100)):
        mine = each([u for u in dev if u.speaker in who], count)
        write(folder / f"children-{name}.jsonl", mine, "children")
    # The noises of one recording, which was cut, stay together.
    sounds = list(split(noises, lambda u: u.audio.stem.split("-")[1]))
    native_dev = shuffled([u for u in dev if u.source != "speechocean762"])
    for name, who, part, some, count in (
        ("target", adults[::2], sounds[1], native_dev[:20], 20),
        ("test", adults[1::2], sounds[2], native_dev[25:75], 50),
    ):
        mine = [*some, *each([u for u in dev if u.speaker in who], count)]
        noisy = in_noise(mine, part, folder / f"noise-{name}", (0, 5))
        write(folder / f"noise-{name}.jsonl", noisy, "noise")
    chosen = each(learners, len(learners))
    pool = [
        ("prompts", shuffled(pool_prompts)[:fifth]),
        ("native", natives[:fifth]),
        ("learners", chosen[: 2 * fifth]),
        (
            "noise",
            in_noise(
                [
                    *natives[fifth : fifth + fifth // 2],
                    *chosen[2 * fifth : 2 * fifth + fifth - fifth // 2],
                ],
                sounds[0],
                folder / "noise-pool",
                (0, 10),
            ),
        ),
    ]
    (folder / "pool.jsonl").write_bytes(b"")
    for kind, some in pool:
        write(folder / "part.jsonl", some, kind)
        with (folder / "pool.jsonl").open("ab") as file:
            file.write((folder / "part.jsonl").read_bytes())
    (folder / "part.jsonl").unlink()


def adapt(name: str, path: Path | None, seed: int) -> Model:
    """Return the model after some epochs on a manifest, or as it is."""
    checkpoint = library.load(name)
    if path is None:
        return Model(checkpoint, bits=32, threads=torch.get_num_threads())
    learner = learner_of(checkpoint)
    examples = [(audio.load(u.audio), u.text, u.language) for u in manifest.read(path)]
    optimizer = torch.optim.AdamW(learner.weights.values(), lr=0, betas=(0.9, 0.98))
    rng = np.random.default_rng(seed)
    batches = [
        order[i : i + BATCH]
        for order in (rng.permutation(len(examples)) for _ in range(EPOCHS))
        for i in range(0, len(examples), BATCH)
    ]
    for step, batch in enumerate(batches):
        optimizer.zero_grad()
        for i in batch:
            try:
                (learner.loss(*examples[i]) / len(batch)).backward()
            except UnusableError:
                continue
        torch.nn.utils.clip_grad_norm_(learner.weights.values(), 1.0)
        warm = min(1.0, (step + 1) / max(1, len(batches) // 10))
        rate = RATES[checkpoint.family.head] * warm * (1 - step / len(batches))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    learnt = {n: w.detach().numpy() for n, w in learner.weights.items()}
    weights = {**checkpoint.weights, **learnt}
    adapted = replace(checkpoint, weights=weights)
    return Model(adapted, bits=32, threads=torch.get_num_threads())


def run(folder: Path, name: str, kinds: Sequence[str], seeds: Sequence[int]) -> None:
    log = folder / f"{Path(name).name}.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    done = {tuple(json.loads(line)["run"]) for line in lines}
    first, *more = seeds
    jobs = [("none", 0.0, 0), *((*choice, first) for choice in FIRST)]
    jobs += [(*choice, seed) for seed in more for choice in REPEATED]
    jobs += [(*choice, seed) for seed in seeds for choice in REST]
    for by, fraction, seed in jobs:
        shared = by in ("none", "random", "all")
        for some in [list(kinds)] if shared else [[kind] for kind in kinds]:
            if all((by, fraction, seed, kind) in done for kind in some):
                continue
            started = time.monotonic()
            path = None
            if by == "all":
                path = folder / "pool.jsonl"
            elif by != "none":
                path = folder / f"{Path(name).name}-{some[0] if not shared else ''}.jsonl.chosen"
                select(
                    folder / "pool.jsonl",
                    path,
                    target=folder / f"{some[0]}-target.jsonl",
                    model=name,
                    fraction=fraction,
                    by=by,
                    seed=seed if by == "random" else 0,
                )
            parts = {} if path is None else tally(path)
            model = adapt(name, path, seed)
            options = model.options(**model.head.options_without_lm)
            for kind in some:
                if (by, fraction, seed, kind) in done:
                    continue
                report = tynda.evaluate(model, [folder / f"{kind}-test.jsonl"], options)
                entry = {
                    "run": [by, fraction, seed, kind],
                    "wer": report.overall.wer,
                    "parts": parts,
                    "texts": [[r.reference, r.hypothesis] for r in report.results],
                }
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                seconds = time.monotonic() - started
                print(*entry["run"], f"{report.overall.wer:.4f}", parts, f"{seconds:.0f} s")
                sys.stdout.flush()


def score_adapted(name: str, path: Path, tests: Sequence[Path]) -> None:
    print(path.name, tally(path))
    for title, model in (("before", adapt(name, None, 0)), ("after", adapt(name, path, 0))):
        options = model.options(**model.head.options_without_lm)
        for way, chosen in (("greedy", options), ("default", None)):
            for source, scores in tynda.evaluate(model, tests, chosen).sources.items():
                print(title, way, source, f"{scores.wer:.4f}", flush=True)


def tally(path: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    for u in manifest.read(path):
        found[u.source] = found.get(u.source, 0) + 1
    return found


def relative(before: dict[int, Any], after: dict[int, Any]) -> tuple[float, ...]:
    """The change of WER relative to the one before, and its interval of 95 %.

    Errors are means over seeds; utterances are drawn with replacement, in pairs.
    """

    def edits(runs: dict[int, Any]) -> Any:
        rows = [[errors(a.split(), b.split()).total for a, b in e["texts"]] for e in runs.values()]
        return np.mean(rows, 0)

    first, second = edits(before), edits(after)
    drawn = np.random.default_rng(0).integers(len(first), size=(10_000, len(first)))
    ratios = second[drawn].sum(1) / np.maximum(first[drawn].sum(1), 1e-9) - 1
    return second.sum() / first.sum() - 1, *np.quantile(ratios, (0.025, 0.975))


def table(folder: Path, names: Sequence[str]) -> None:
    for name in names:
        entries = [json.loads(x) for x in (folder / f"{name}.jsonl").read_text().splitlines()]
        runs: dict[tuple[str, str, float], dict[int, Any]] = {}
        for entry in entries:
            by, fraction, seed, kind = entry["run"]
            runs.setdefault((kind, by, fraction), {})[seed] = entry
        for kind, by, fraction in sorted(runs):
            mine = runs[kind, by, fraction]
            rates = [e["wer"] for e in mine.values()]
            line = f"{name} {kind} {by} {fraction:g}: {np.mean(rates):.4f}"
            line += f" ({', '.join(f'{r:.4f}' for r in rates)})"
            other = runs.get((kind, "random", fraction), {})
            if by in ("gradients", "embeddings") and other:
                change, low, high = (100 * x for x in relative(other, mine))
                line += f"; {change:+.1f} % [{low:+.1f}, {high:+.1f}] of random"
            if by != "none" and (parts := next(iter(mine.values()))["parts"]):
                line += f"; {parts}"
            print(line)


def likeness(folder: Path, name: str, kinds: Sequence[str]) -> None:
    pool = manifest.read(folder / "pool.jsonl")
    for kind in kinds:
        path = folder / f"{kind}-target.jsonl"
        chosen = folder / "likeness.jsonl.chosen"
        stored = select(folder / "pool.jsonl", chosen, target=path, model=name, seed=0).features
        assert stored is not None
        with stored.open("rb") as first:
            file = FeatureFile(stored, json.loads(first.readline()), SIZE)

        def vectors(utterances: Sequence[Utterance], file: FeatureFile = file) -> Floats:
            keys = [key for u in utterances if file.reason(key := key_of(u)) is None]
            return np.concatenate(list(file.blocks(keys)))

        mine = vectors(manifest.read(path))
        count = len(mine)
        itself = (float(np.square(mine.sum(0)).sum()) - count) / (count * (count - 1))
        found = {"itself": itself}
        for part in dict.fromkeys(u.source for u in pool):
            others = vectors([u for u in pool if u.source == part])
            found[part] = float(others.mean(0) @ mine.mean(0))
        print(kind, {part: round(value, 5) for part, value in found.items()})
        file.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("prepare")
    one.add_argument("data", type=Path)
    one.add_argument("folder", type=Path)
    one.add_argument("--ages", type=Path, required=True)
    one.add_argument("--pool", type=int, default=400)
    two = commands.add_parser("run")
    two.add_argument("folder", type=Path)
    two.add_argument("model")
    two.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    two.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    two.add_argument("--threads", type=int, default=1)
    three = commands.add_parser("table")
    three.add_argument("folder", type=Path)
    three.add_argument("models", nargs="+")
    five = commands.add_parser("adapt")
    five.add_argument("model")
    five.add_argument("manifest", type=Path)
    five.add_argument("tests", type=Path, nargs="+")
    five.add_argument("--threads", type=int, default=1)
    four = commands.add_parser("likeness")
    four.add_argument("folder", type=Path)
    four.add_argument("model")
    four.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    given = parser.parse_args()
    if given.command == "prepare":
        prepare(given.data, given.folder, given.ages, given.pool)
    elif given.command == "run":
        torch.set_num_threads(given.threads)
        run(given.folder, given.model, given.kinds, given.seeds)
    elif given.command == "adapt":
        torch.set_num_threads(given.threads)
        score_adapted(given.model, given.manifest, given.tests)
    elif given.command == "table":
        table(given.folder, given.models)
    else:
        likeness(given.folder, given.model, given.kinds)


if __name__ == "__main__":
    main()
