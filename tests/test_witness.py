"""The trained witness models: decoding and word times with meaningful weights."""

import sys
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import RATE
from tynda import manifest
from tynda.score import score
from tynda.sound import audio
from whisper_peer import openai, same_as_openai, same_dice, to_openai  # noqa: F401 (a fixture)

DATA = Path(__file__).parent / "data"
DEMO = Path(__file__).parents[1] / "demo" / "manifest.jsonl"


@pytest.fixture(scope="module")
def wav2vec2():
    return tynda.load(DATA / "witness-wav2vec2.safetensors")


@pytest.fixture(scope="module")
def whisper():
    return tynda.load(DATA / "witness-whisper.safetensors")


@pytest.fixture(scope="module")
def recording():
    """Return five minutes of the bundled recordings, with pauses of 0.5 s to 3 s between them."""
    rng = np.random.default_rng(0)
    clips = [audio.load(u.audio) for u in manifest.read(DEMO)]
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < 300 * RATE:
        pause = np.zeros(int(rng.uniform(0.5, 3) * RATE), np.float32)
        parts += [pause, clips[rng.integers(len(clips))]]
    return np.concatenate(parts)[: 300 * RATE]


def test_the_raw_waveform_is_transcribed(wav2vec2):
    for most, options in ((0.6, {}), (0.65, {"beam_size": 1})):
        heard = [
            (u.text, wav2vec2.transcribe(u.audio, **options).text) for u in manifest.read(DEMO)
        ]
        assert score([tuple(map(wav2vec2.normalize, pair)) for pair in heard]).cer < most


@pytest.fixture
def theirs(whisper, monkeypatch):
    """openai-whisper with the witness's weights, tokens and window of 10 s."""
    import tiktoken

    config, tokenizer = whisper.checkpoint.config, whisper.checkpoint.tokenizer
    seconds = config.frames // 50
    for part, names in {
        "transcribe": {"N_FRAMES": 100 * seconds, "N_SAMPLES": RATE * seconds},
        "decoding": {"CHUNK_LENGTH": seconds},
    }.items():
        for name, value in names.items():
            monkeypatch.setattr(sys.modules[f"whisper.{part}"], name, value)
    special, zero = tokenizer.to_dict()["special"], tokenizer.timestamp_begin
    stamps = {f"<|{i * 0.02:.2f}|>": zero + i for i in range(config.frames + 1)}
    encoding = tiktoken.Encoding(
        "witness",
        pat_str=r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
        mergeable_ranks={tokenizer._piece(t): t for t in range(tokenizer.eot)},
        special_tokens=special | stamps,
    )
    spelling = openai.tokenizer.Tokenizer(encoding=encoding, num_languages=1)
    for part in ("transcribe", "decoding"):
        module = sys.modules[f"whisper.{part}"]
        monkeypatch.setattr(module, "get_tokenizer", lambda *_, **__: spelling)
    return to_openai(config, whisper.checkpoint.weights)


@pytest.mark.usefixtures("same_dice")
@pytest.mark.parametrize("seconds", [3, 40, pytest.param(300, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "options",
    [
        {"word_timestamps": True},
        {"temperature": (0.4,)},
        {"beam_size": 3, "condition_on_previous_text": False},
    ],
    ids=["words", "draws", "beams"],
)
def test_recordings_are_those_of_openai(whisper, theirs, recording, seconds, options):
    options = {"temperature": (0.0,), "suppress_tokens": (), "best_of": None} | options
    same_as_openai((theirs, whisper.head.network), recording[: seconds * RATE], options)
