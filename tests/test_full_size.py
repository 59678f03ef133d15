"""Full-size folders in the hub's layout through `tynda.load`: real speech, random weights."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    Wav2Vec2FeatureExtractor,
    Wav2Vec2ForCTC,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

import tynda
from helpers import close
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.search import decode
from tynda.sound import audio
from whisper_peer import openai, to_openai

SCRIPT = Path(__file__).parents[2] / "shared" / "peers" / "models.py"
JFK = Path(__file__).parents[1] / "demo" / "jfk.flac"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not SCRIPT.exists(), reason="needs ../shared/peers/models.py"),
]


def make(tmp_path, *names):
    folder = tmp_path / "-".join(names)
    subprocess.run([sys.executable, SCRIPT, *names, folder], check=True, capture_output=True)
    return folder


def test_whisper_tiny(tmp_path):
    folder = make(tmp_path, "whisper", "tiny")
    theirs = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    samples = audio.load(JFK)
    front = WhisperFeatureExtractor.from_pretrained(folder)
    mel = front(samples, sampling_rate=16000, return_tensors="pt").input_features
    ours = tynda.load(folder)
    network = ours.head.network
    features = ours.checkpoint.frontend(np.pad(samples, (0, 480000 - samples.size)))[None]
    close(features, mel.transpose(1, 2))
    states, lengths = network.encode(features, np.array([3000]))
    with torch.no_grad():
        close(states, theirs.model.encoder(mel).last_hidden_state)
    # The beams equal those of the reference implementation, at full size.
    peer = to_openai(network.config, ours.checkpoint.weights)
    cross = network.cross_kv(states, lengths)
    for beams in (None, 5):
        options = {"temperature": 0.0, "beam_size": beams, "without_timestamps": True}
        asked = openai.DecodingOptions(language="en", fp16=False, sample_len=40, **options)
        with torch.no_grad():
            expected = openai.decode(peer, mel[0], asked)
        chosen = Options(beam_size=beams, without_timestamps=True, max_new_tokens=40)
        (window,) = decode(network, cross, chosen, ["en"])
        assert window.tokens == expected.tokens
        assert window.avg_logprob == pytest.approx(expected.avg_logprob, rel=1e-4)


@pytest.mark.parametrize("size", ["base", "large"])
def test_wav2vec2(tmp_path, size):
    folder = make(tmp_path, "wav2vec2", size)
    theirs = Wav2Vec2ForCTC.from_pretrained(folder).eval()
    samples = audio.load(JFK)[: 4 * 16000]
    front = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    values = front(samples, sampling_rate=16000, return_tensors="pt").input_values
    with torch.no_grad():
        expected = theirs(values).logits[0].log_softmax(-1)
    model = tynda.load(folder)
    close(model.encode(samples), expected)
    assert model.transcribe(samples).duration == 4
