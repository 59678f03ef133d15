"""Hybrid models as files: transcription, alignment, options, training by a recipe."""

import json
import wave

import numpy as np
import pytest

import tynda
from tynda.alignment import writers
from tynda.alignment.run import align
from tynda.errors import TyndaError
from tynda.heads.ctc import ngram
from tynda.heads.hybrid.lexicon import Spelling
from tynda.hybrid.tree import monophones
from tynda.models import family
from tynda.sound.frontend import LogMel
from tynda.store import checkpoint

PHONES = ["A", "B"]
LEXICON = {"a": [("A",)], "ab": [("A", "B")], "ba": [("B", "A")]}
TYING = monophones(PHONES)
FRONT = LogMel(bins=8, normalize="fixed")


def tones(states):
    """Return sound in which each state is a tone of its own for 20 ms, and a pause is silence."""
    time = np.arange(320) / 16000
    quiet = np.random.default_rng(0).standard_normal(320) * 1e-3
    parts = [
        quiet + (0 if s < 3 else 0.3 * np.sin(2 * np.pi * (300 + 700 * (s - 3)) * time))
        for s in states
    ]
    return np.concatenate(parts).astype(np.float32)


def said(text, repeats=4):
    """Return the sound of a text, with pauses around each word."""
    spelling, states = Spelling(LEXICON, TYING), [0, 1, 2] * 8
    for word in text.split():
        states += [
            s for p in spelling.tying.spell(LEXICON[word][0]) for s in p for _ in range(repeats)
        ]
        states += [0, 1, 2] * 8
    return tones(states)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """Write a model of tones: each state's weights are the mean features of its tone."""
    config = {"bins": 8, "vocab": TYING.count, "channels": 8, "layers": 1, "splice": 1, "width": 1}
    tdnn = family("tdnn")
    sound, spelling = said("a ab ba ab a ba"), Spelling(LEXICON, TYING)
    front = FRONT.fitted([sound])  # It does not depend on how much of the sound is silent.
    features = front(sound)
    weights = {
        name: np.zeros(s, np.float32) for name, s in tdnn.shapes(tdnn.configure(config)).items()
    }
    labels = np.zeros(len(features), int)
    order = [0] * 24
    for word in ["a", "ab", "ba", "ab", "a", "ba"]:
        order += [s for p in spelling.tying.spell(LEXICON[word][0]) for s in p for _ in range(4)]
        order += [0] * 24
    labels = np.repeat(order, 2)[: len(features)]
    weights["splice.weight"][:, :, 0] = np.eye(8)
    weights["splice.bias"][:] = 3
    weights["layers.0.norm.weight"][:] = 1
    weights["norm.weight"][:] = 1
    x = features + 3
    x = (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)
    for state in range(TYING.count):
        mean = x[labels == (0 if state < 3 else state)].mean(0)
        weights["head.weight"][state] = 4 * mean
        weights["head.bias"][state] = -2 * (mean**2).sum()
    header = checkpoint.Header(
        "tones",
        "tdnn",
        config,
        front.config,
        spelling.to_dict(),
        ["en"],
        "Apache-2.0",
        {"speech_threshold": 0.0, "alpha": 4.0, "beta": -5.0},
    )
    path = tmp_path_factory.mktemp("tones") / "tones.safetensors"
    lm = ngram.pack(ngram.train(["a ab", "ba a", "ab ba"], 2))
    checkpoint.save_model(path, header, weights, bits=8, lm=lm)
    return path


@pytest.mark.parametrize("backend", ["numpy", None])
def test_words_are_heard_with_times(path, backend):
    model = tynda.load(path, backend=backend)
    found = model.transcribe(said("ab a ba"))
    assert found.text == "ab a ba"
    words = found.segments[0].words
    assert [w.text for w in words] == ["ab", "a", "ba"]
    # A pause has 0.48 s, a phone 0.24 s.
    np.testing.assert_allclose([w.start for w in words], [0.48, 1.44, 2.16], atol=0.05)
    assert all(0 < w.confidence <= 1 for w in words)
    assert model.transcribe(said("ab a ba"), lm="none").text == "ab a ba"
    assert model.transcribe(np.zeros(100, np.float32)).text == ""
    assert model.transcribe(np.zeros(0, np.float32)).text == ""


def test_options_that_a_lexicon_cannot_fulfil_are_errors(path):
    model = tynda.load(path)
    with pytest.raises(TyndaError, match="n_best"):
        model.transcribe(said("a"), n_best=2)
    with pytest.raises(TyndaError, match="no pronunciation of zebra"):
        model.transcribe(said("a"), hotwords="a,zebra")
    assert model.transcribe(said("a"), hotwords="ba", hotword_boost=1000).text.count("ba") > 0
    with pytest.raises(TyndaError, match="grammar"):
        model.head.commands(None, model.options())
    with pytest.raises(TyndaError, match="lexicon"):
        model.head.exported(model.checkpoint, None)
    assert model.head.spelling_doubt("zebra")
    assert model.head.spelling_doubt("ab") is None


def test_a_text_is_aligned_by_phones(path, tmp_path):
    file = tmp_path / "said.wav"
    write(file, said("ab a ba"))
    model = tynda.load(path)
    found = align(model, file, "AB, a ba!")
    assert [(w.text, [p.text for p in w.letters]) for w in found.words] == [
        ("AB", ["A", "B"]),
        ("a", ["A"]),
        ("ba", ["B", "A"]),
    ]
    np.testing.assert_allclose([w.start for w in found.words], [0.48, 1.44, 2.16], atol=0.05)
    np.testing.assert_allclose([w.end for w in found.words], [0.96, 1.68, 2.64], atol=0.05)
    assert 'name = "phones"' in writers.write(found, "textgrid", "said")
    assert json.loads(writers.write(found, "json", "said"))["words"][1]["phones"][0]["text"] == "A"
    assert found.words[0].letters[1].start == pytest.approx(0.72, abs=0.05)
    with pytest.raises(TyndaError, match="no pronunciation of zebra"):
        align(model, file, "a zebra")
    with pytest.raises(TyndaError, match="too long for the audio"):
        align(model, file, "ab " * 200)


def write(path, sound):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes((sound * 32767).astype("<i2").tobytes())


RECIPE = """
family = "tdnn"
views = 1
bits = 8
dictionary = "words.dict"
[model]
channels = 32
layers = 1
{model}
[frontend]
kind = "log_mel"
bins = 16
[mixtures]
states = 120
components = 1
[data]
dev = ["speech.jsonl"]
batch_seconds = 4.0
[[data.train]]
manifest = "speech.jsonl"
[lm]
order = 2
tune_utterances = 4
[optimizer]
epochs = 12
lr = 5e-3
warmup_steps = 2
{more}
"""


WORDS = """sea S IY
mat M AE T
knit N IH T
dog D AO G
mathematics M AE TH AH M AE T IH K S
"""


def speech(folder, texts):
    """Write a manifest of tones, one for each letter of a word."""
    lines = []
    for i, text in enumerate(texts):
        rng = np.random.default_rng(i)
        parts = [rng.standard_normal(6400) * 1e-3]
        for word in text.split():
            for letter in word:
                tone = 300 + 250 * "adegikmnost".find(letter)
                n = int(rng.integers(1600, 2400))
                parts.append(0.2 * np.sin(2 * np.pi * tone * np.arange(n) / 16000))
            parts.append(rng.standard_normal(3200) * 1e-3)
        write(folder / f"{i}.wav", np.concatenate(parts))
        lines.append({"audio_filepath": f"{i}.wav", "text": text, "speaker": str(i % 2)})
    (folder / "speech.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "words.dict").write_text(WORDS)


@pytest.mark.parametrize("plain", [False, True])
def test_a_recipe_trains_a_model_from_recordings_and_texts(tmp_path, plain):
    pytest.importorskip("torch")
    from tynda.train.run import train

    speech(tmp_path, ["sea mat", "mat knit", "knit sea", "dog mat", "sea dog"] * 2)
    model = "plain = true\nwidth = 1\ndropout = 0.0" if plain else ""
    more = "[pretrain]\nepochs = 1" if plain else ""
    recipe = tmp_path / "tones.toml"
    recipe.write_text(RECIPE.format(model=model, more=more))
    path = train(str(recipe), tmp_path, tmp_path / "run")
    model = tynda.load(path)
    assert model.header.scores["speech"]["wer"] < 0.5
    if plain:
        return
    before = path.read_bytes()
    assert train(str(recipe), tmp_path, tmp_path / "run", resume=True) == path
    assert path.read_bytes() == before  # The mixtures are those of the first run.
    speech(tmp_path, ["sea dog"] * 2)
    with pytest.raises(TyndaError, match="other recordings"):
        train(str(recipe), tmp_path, tmp_path / "run", resume=True)


def test_speech_that_cannot_be_aligned_is_one_line(tmp_path):
    pytest.importorskip("torch")
    from tynda.train.run import train

    speech(tmp_path, ["sea mat"])
    line = json.loads((tmp_path / "speech.jsonl").read_text())
    recipe = tmp_path / "tones.toml"
    recipe.write_text(RECIPE.format(model="", more=""))
    long = {**line, "text": "mathematics " * 40}
    (tmp_path / "speech.jsonl").write_text(json.dumps(long))
    with pytest.raises(TyndaError, match="too short for their texts"):
        train(str(recipe), tmp_path, tmp_path / "run")
    (tmp_path / "speech.jsonl").write_text(json.dumps({**line, "text": "'"}))
    with pytest.raises(TyndaError, match=r"lexicon is empty|no utterance"):
        train(str(recipe), tmp_path, tmp_path / "run")
    (tmp_path / "words.dict").write_text("")
    with pytest.raises(TyndaError, match="lexicon is empty"):
        train(str(recipe), tmp_path, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('family = "conformer"', "no states of phones"),
        ("bins = 4", "follows from other settings"),
        ("noise", "not for hybrid models"),
        ("pretrain", "model.plain"),
        ("dev", "needs data.dev"),
        ("bits", "one width"),
    ],
)
def test_a_recipe_that_does_not_fit_is_one_line(tmp_path, change, message):
    from tynda.hybrid.recipe import is_hybrid, load
    from tynda.train.recipe import read_table

    text = RECIPE.format(model="", more="")
    changed = {
        'family = "conformer"': text.replace('family = "tdnn"', change),
        "bins = 4": text.replace("channels = 32", "channels = 32\nbins = 4"),
        "noise": text + "[augment]\nnoise = 0.5\n",
        "pretrain": text + "[pretrain]\n",
        "dev": text.replace('dev = ["speech.jsonl"]', "dev = []"),
        "bits": text + "[rounding]\nbits = [4, 2]\n",
    }[change]
    path = tmp_path / "x.toml"
    path.write_text(changed)
    table = read_table(str(path))
    assert is_hybrid(table)
    with pytest.raises(TyndaError, match=message):
        load("x", table)


@pytest.mark.parametrize("name", ["hybrid-en", "hybrid-dnn-en", "hybrid-whisper-en"])
def test_the_bundled_recipes_are_recipes(name):
    from tynda.hybrid.recipe import load
    from tynda.train.recipe import bundled, read_table

    assert name in bundled("hybrids")
    recipe = load(name, read_table(name))
    config = family(recipe.family).configure({**recipe.model, "bins": 40, "vocab": 900})
    assert family(recipe.family).specs(config)
