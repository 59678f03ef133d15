"""How well voices are told apart: the original experiment, error rates, time.

    python bench/speakers.py MODEL --data DATA [--output FILE.json] [--figure FILE.png]
        [--each 3] [--peer | --few-bits]

With ``--peer``, only the peer of the embedding, Resemblyzer, which carries its weights (Wan et al.
2018, "Generalized End-to-End Loss for Speaker Verification"), gets the pairs of 3 s, beside MODEL;
with ``--few-bits``, only MODEL in 8, 4 and 2 bits does, with its last layer as it was trained, and
found again (``tynda speakers calibrate --refit``).

All people whose rates are reported were left out of training: the 63 of speechocean762's dev, ten
of DSPSpeech-20 and the five of LibriSpeech's test-other.

The original experiment (Lavrenov 2024) told four people apart by seven recordings of one phrase
each, with a feed-forward network over the power spectral density. Here that network and the model
of voices get the same recordings, in many random draws of four people, and recordings of four more
people, the strangers, who are to be refused.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import tynda
from tynda import manifest
from tynda.quantization.run import quantize
from tynda.sound import audio
from tynda.speakers.calibrate import calibrate
from tynda.speakers.profiles import Profile, ProfileStore
from tynda.speakers.scoring import as_norm, equal_error_rate, threshold_for
from tynda.speakers.voices import Speakers, speech_of
from tynda.train import recipe
from tynda.train.codecs import coded
from tynda.weights.weight import floats

RATE = 16_000
PEOPLE, SAMPLES, NEW = 4, 7, 4
Recording = tuple[str, str, np.ndarray]
"""A recording of a draw: person, phrase and samples."""


def density(samples: np.ndarray) -> np.ndarray:
    """Return the power spectral density in decibels, 257 bins: Welch's method, 32 ms windows."""
    window = np.hanning(512)
    padded = np.pad(samples, (0, max(0, 512 - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, 512)[::256] * window
    return 10 * np.log10(np.square(np.abs(np.fft.rfft(frames))).mean(0) + 1e-10)


def feed_forward(x: np.ndarray, y: np.ndarray, seed: int) -> Any:
    """Train a network with one hidden layer until it is right on all of ``x [n, bins]``, and return
    a function from spectra to probabilities."""
    mean, deviation = x.mean(0), x.std(0) + 1e-6
    torch.manual_seed(seed)
    layers = (
        torch.nn.Linear(x.shape[1], 64),
        torch.nn.ReLU(),
        torch.nn.Linear(64, int(y.max()) + 1),
    )
    network = torch.nn.Sequential(*layers)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    inputs = torch.tensor((x - mean) / deviation, dtype=torch.float32)
    labels = torch.tensor(y)
    for step in range(400):
        scores = network(inputs)
        if step >= 100 and bool((scores.argmax(1) == labels).all()):
            break
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(scores, labels).backward()
        optimizer.step()

    def probabilities(z: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            scores = network(torch.tensor((z - mean) / deviation, dtype=torch.float32))
            return torch.softmax(scores, 1).numpy()

    return probabilities


class Set:
    """Recordings of people with their spectra and embeddings, each computed once."""

    def __init__(self, name: str, utterances: list[Any], model: tynda.Model) -> None:
        self.name = name
        self.phrases: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
        self.spectra, self.voices = [], []
        for i, u in enumerate(utterances):
            samples = audio.load(u.audio)
            spoken, seconds = speech_of(samples)
            spoken = spoken if seconds else samples
            self.spectra.append(density(samples))
            self.voices.append(model.encode(spoken))
            self.phrases[u.speaker][u.text].append(i)
        self.spectra, self.voices = np.array(self.spectra), np.array(self.voices)

    def draw(self, rng: np.random.Generator, same: bool) -> tuple[list[Any], list[int]]:
        """Return the recordings to learn and new ones of four people, and those of strangers.

        With ``same``, all are of one phrase, of which few people have more than seven recordings:
        five are learnt, two are new. Otherwise seven are learnt, and the new ones are of other
        phrases.
        """
        chosen = rng.choice(sorted(self.phrases), 2 * PEOPLE, replace=False)
        phrase = str(rng.choice(sorted(self.phrases[chosen[0]])))
        known, strangers = [], []
        for rank, person in enumerate(chosen):
            own = self.phrases[person]
            if same:
                takes = [int(i) for i in rng.permutation(own[phrase])]
                learnt, new = takes[:5], takes[5:7]
            elif len(own.get(phrase, ())) >= SAMPLES:
                others = [i for text, found in own.items() if text != phrase for i in found]
                learnt, new = own[phrase][:SAMPLES], [*rng.choice(others, NEW, replace=False)]
            else:  # Each sentence was said once: seven are learnt, the others are new.
                takes = [int(i) for i in rng.permutation([i for f in own.values() for i in f])]
                learnt, new = takes[:SAMPLES], takes[SAMPLES : SAMPLES + NEW]
            if rank < PEOPLE:
                known.append((learnt, new))
            else:
                strangers += new
        return known, strangers


def experiment(found: Set, speakers: Speakers, draws: int, same: bool) -> dict[str, Any]:
    """Return the rates of the original experiment by the network and by the model of voices."""
    right: dict[str, list[bool]] = {"psd": [], "voices": []}
    inside: dict[str, list[float]] = {"psd": [], "voices": []}
    outside: dict[str, list[float]] = {"psd": [], "voices": []}
    trained: list[bool] = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        known, strangers = found.draw(rng, same)
        x = np.concatenate([found.spectra[learnt] for learnt, _ in known])
        y = np.repeat(np.arange(PEOPLE), [len(learnt) for learnt, _ in known])
        network = feed_forward(x, y, seed)
        trained += (network(x).argmax(1) == y).tolist()
        profiles = [
            Profile(str(i), found.voices[learnt].sum(0), len(learnt), 0.0).voice
            for i, (learnt, _) in enumerate(known)
        ]
        new = [i for _, own in known for i in own]
        names = np.repeat(np.arange(PEOPLE), [len(own) for _, own in known])
        for kind in right:
            if kind == "psd":
                own, others = network(found.spectra[new]), network(found.spectra[strangers])
            else:
                own, others = (
                    np.array([speakers.scores(profiles, v) for v in found.voices[those]])
                    for those in (new, strangers)
                )
            right[kind] += (own.argmax(1) == names).tolist()
            inside[kind] += own.max(1).tolist()
            outside[kind] += others.max(1).tolist()
    out: dict[str, Any] = {"psd right on learnt": float(np.mean(trained))}
    for kind in right:
        out[f"{kind} right"] = float(np.mean(right[kind]))
        accepted = np.quantile(inside[kind], 0.05)
        out[f"{kind} strangers refused at 95 % acceptance"] = float(
            np.mean(np.array(outside[kind]) < accepted)
        )
    threshold = speakers.threshold(PEOPLE)
    out["voices accepted as shipped"] = float(np.mean(np.array(inside["voices"]) >= threshold))
    out["voices strangers refused as shipped"] = float(
        np.mean(np.array(outside["voices"]) < threshold)
    )
    return out


Encode = Callable[[np.ndarray], np.ndarray]
"""A function from samples to an embedding of length 1."""


def error_rates(
    encode: Encode,
    cohort: np.ndarray | None,
    utterances: list[Any],
    seconds: float | None,
    *,
    codecs: bool = False,
) -> dict[str, Any]:
    """Return the rates of all pairs of recordings, or of the middle ``seconds`` of each; with a
    ``cohort``, those of normalised scores too. With ``codecs``, each goes through one of those that
    training has, drawn at random."""
    voices, names = [], []
    for i, u in enumerate(utterances):
        samples = audio.load(u.audio)
        if seconds:
            size = int(seconds * RATE)
            start = max(0, (len(samples) - size) // 2)
            samples = samples[start : start + size]
        if codecs:
            samples = coded(samples, np.random.default_rng(i))
        voices.append(encode(samples))
        names.append(u.speaker)
    x, who = np.array(voices), np.array(names)
    pairs = np.triu(np.ones((len(x), len(x)), bool), 1)
    same = who[:, None] == who[None]
    out = {"pairs of one person": int((pairs & same).sum()), "of two": int((pairs & ~same).sum())}
    curves = {}
    kinds = {"cosine": x @ x.T}
    if cohort is not None:
        kinds["as-norm"] = as_norm(x, x, cohort)
    for kind, scores in kinds.items():
        one, two = scores[pairs & same], scores[pairs & ~same]
        out[f"EER {kind}"] = equal_error_rate(one, two)
        out[f"refused at 1 % false acceptance, {kind}"] = float(
            np.mean(one < threshold_for(two, 0.01))
        )
        curves[kind] = (one, two)
    return out | {"curves": curves}


def draw_det(curves: dict[str, Any], path: Path) -> None:
    """Draw the two rates of errors against each other on normal deviates (a DET curve)."""
    from matplotlib.figure import Figure
    from scipy.stats import norm

    figure = Figure(figsize=(5, 5), layout="constrained")
    axis = figure.subplots()
    ticks = np.array([0.001, 0.01, 0.05, 0.1, 0.2, 0.4])
    for name, (one, two) in curves.items():
        thresholds = np.quantile(np.concatenate([one, two]), np.linspace(0, 1, 2000))
        missed = np.searchsorted(np.sort(one), thresholds) / len(one)
        passed = 1 - np.searchsorted(np.sort(two), thresholds) / len(two)
        keep = (missed > 5e-4) & (passed > 5e-4)
        axis.plot(norm.ppf(passed[keep]), norm.ppf(missed[keep]), label=name)
    for place in (axis.set_xticks, axis.set_yticks):
        place(norm.ppf(ticks), [f"{100 * t:g}" for t in ticks])
    axis.set(xlabel="strangers accepted, %", ylabel="the same person refused, %")
    axis.grid(alpha=0.3)
    axis.legend()
    figure.savefig(path, dpi=120)


def milliseconds(encode: Encode, samples: np.ndarray, count: int = 60) -> float:
    """Return the median processor time of an embedding, front end included.

    With one thread, it is the time on a processor without other programs.
    """
    times = []
    for _ in range(count):
        begin = time.process_time()
        encode(samples)
        times.append(time.process_time() - begin)
    return 1000 * float(np.median(times[count // 6 :]))


def resemblyzer() -> tuple[Encode, int]:
    """Return Resemblyzer's embedding as its documentation uses it, and the bytes of its weights."""
    import resemblyzer as peer

    encoder = peer.VoiceEncoder("cpu", verbose=False)

    def encode(samples: np.ndarray) -> np.ndarray:
        spoken = peer.preprocess_wav(samples)  # without long silences
        return encoder.embed_utterance(spoken if len(spoken) else samples)

    return encode, (Path(peer.__file__).parent / "pretrained.pt").stat().st_size


def beside(model: tynda.Model, speakers: Speakers, dev: list[Any], libri: list[Any]) -> Any:
    """Yield name and rates of the model and of Resemblyzer on the same pairs of 3 s."""
    theirs, size = resemblyzer()
    middle = audio.load(dev[0].audio)[: 3 * RATE]
    for name, encode, cohort, count in (
        ("tynda", model.encode, speakers.cohort, model.bytes),
        ("Resemblyzer", theirs, None, size),
    ):
        yield f"{name}, dev, 3 s", error_rates(encode, cohort, dev, 3.0)
        yield f"{name}, LibriSpeech, 3 s", error_rates(encode, cohort, libri, 3.0)
        yield (
            f"{name}, time",
            {"ms of processor time for 3 s": milliseconds(encode, middle), "bytes": count},
        )


def few_bits(source: str, bits: int, data: Path, held_out: tuple[str, ...], place: Path) -> Any:
    """Yield name and model: rounded to so many bits, and with the last layer found again, as
    ``tynda speakers calibrate --refit`` does, on people of the training set."""
    cohorts = []
    for name in ("train", "speakers"):
        unknown = (None, "-", *held_out)
        own = [u for u in manifest.read(data / f"{name}.jsonl") if u.speaker not in unknown]
        cohorts.append(place / f"{name}.jsonl")
        lines = [
            {"audio_filepath": str(u.audio), "text": "", "speaker": u.speaker, "source": u.source}
            for u in own
        ]
        cohorts[-1].write_text("".join(json.dumps(line) + "\n" for line in lines))
    plain = place / f"{bits}.safetensors"
    quantize(source, plain, bits)
    for name, refit in (("", False), (", last layer found again", True)):
        path = place / f"{bits}-{refit}.safetensors"
        calibrate(plain, data / "dev.jsonl", path, cohort=cohorts, refit=refit)
        yield f"{bits} bits{name}", tynda.load(path, threads=1)


def main() -> None:
    """Print each part as JSON when it is finished."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--each", type=int, default=1, help="use one dev recording of so many")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--peer", action="store_true", help="only MODEL and Resemblyzer")
    parser.add_argument("--few-bits", action="store_true", help="only MODEL in few bits")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {}

    def report(name: str, value: dict[str, Any]) -> None:
        results[name] = {k: v for k, v in value.items() if k != "curves"}
        print(name, json.dumps(results[name], indent=1), flush=True)
        if options.output:
            options.output.write_text(json.dumps(results, indent=1) + "\n")

    model = tynda.load(options.model, threads=1)
    with TemporaryDirectory() as folder:
        place = Path(folder)
        speakers = Speakers(model, ProfileStore(place / "p", place / "k"), false_acceptance=0.05)
        dev = [u for u in manifest.read(options.data / "dev.jsonl") if u.source == "speechocean762"]
        dev = dev[:: options.each]
        libri = [u for u in manifest.read(options.data / "test.jsonl") if "librispeech" in u.source]
        if options.peer:
            for name, value in beside(model, speakers, dev, libri):
                report(name, value)
            return
        held_out = recipe.load("speakers").data.exclude_speakers
        if options.few_bits:
            for bits in (8, 4, 2):
                for name, small in few_bits(options.model, bits, options.data, held_out, place):
                    cohort = floats(small.checkpoint.weights["cohort"])
                    value = error_rates(small.encode, cohort, dev, 3.0)
                    report(f"dev, 3 s, {name}", value | {"bytes": small.bytes})
            return
        words = [u for u in manifest.read(options.data / "speakers.jsonl") if u.speaker in held_out]
        sets = {
            "DSPSpeech": Set("DSPSpeech", words, model),
            "speechocean762": Set("speechocean762", dev, model),
        }
        report("DSPSpeech, one word", experiment(sets["DSPSpeech"], speakers, options.draws, True))
        report(
            "DSPSpeech, another word", experiment(sets["DSPSpeech"], speakers, options.draws, False)
        )
        report(
            "speechocean762, other sentences",
            experiment(sets["speechocean762"], speakers, options.draws, False),
        )
        noise = np.random.default_rng(0).standard_normal(3 * RATE).astype(np.float32)
        report(
            "time",
            {
                "ms of processor time for 3 s": milliseconds(model.encode, noise),
                "bytes": model.bytes,
            },
        )
        whole = error_rates(model.encode, speakers.cohort, dev, None)
        report("dev, whole", whole)
        three = error_rates(model.encode, speakers.cohort, dev, 3.0)
        report("dev, 3 s", three)
        report(
            "LibriSpeech test-other, 3 s", error_rates(model.encode, speakers.cohort, libri, 3.0)
        )
        if options.figure:
            draw_det({f"3 s, {k}": v for k, v in three["curves"].items()}, options.figure)
        report(
            "dev, 3 s, products in f32",
            error_rates(
                tynda.load(options.model, bits=32, threads=1).encode, speakers.cohort, dev, 3.0
            ),
        )
        report(
            "dev, 3 s, each through a codec",
            error_rates(model.encode, speakers.cohort, dev, 3.0, codecs=True),
        )


if __name__ == "__main__":
    main()
