"""Recordings through decoders without time stamps, against transformers' own generation."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch

import tynda
from helpers import noise, write_wav
from test_moonshine import make, sound, theirs_states
from tynda.errors import TyndaError
from tynda.heads.seq2seq import pieces
from tynda.sound import vad

RATE = 16_000
KINDS = ("offline", "streaming")
NAMES = ["<unk>", "<s>", "</s>", "\u2581", *(f"\u2581w{i}" for i in range(4, 110)), *"abcdefghij"]


@pytest.fixture(scope="module", params=KINDS)
def checkpoint(request, tmp_path_factory):
    """A folder whose model sometimes ends a text, and transformers' model."""
    path = tmp_path_factory.mktemp(request.param)
    model, *_ = make(request.param)
    with torch.no_grad():
        output = model.get_output_embeddings().weight
        output[2] *= 3
    model.config.eos_token_id, model.config.decoder_start_token_id = 2, 1
    model.save_pretrained(path)
    vocab = {name: i for i, name in enumerate(NAMES)}
    special = [{"content": name, "id": i, "special": True} for i, name in enumerate(NAMES[:3])]
    tokens = {
        "model": {"vocab": vocab, "byte_fallback": True, "merges": []},
        "added_tokens": special,
    }
    (path / "tokenizer.json").write_text(json.dumps(tokens))
    (path / "README.md").write_text("---\nlanguage: en\n---\n")
    return path, model


@pytest.fixture(scope="module", params=["numpy", "native"])
def pair(request, checkpoint):
    path, model = checkpoint
    return tynda.load(path, backend=request.param, threads=2), model


def theirs(model, samples):
    """Tokens by transformers' generation, as its documentation limits them."""
    with torch.no_grad():
        states = theirs_states(model, samples)
        made = model.generate(
            encoder_outputs=states,
            attention_mask=states.attention_mask,
            max_new_tokens=max(1, int(6.5 * len(samples) / RATE)),
            do_sample=False,
            decoder_start_token_id=1,
        )
    tokens = made[0, 1:].tolist()
    return tokens[: tokens.index(2)] if 2 in tokens else tokens


def spoken(seconds):
    """Bursts of noise with silence between them."""
    samples = sound(seconds, 5)
    t = np.arange(len(samples)) / RATE
    return samples * (t % 0.9 < 0.7).astype(np.float32)


def test_each_piece_says_what_transformers_says_of_it(pair):
    ours, model = pair
    samples = spoken(9.3)
    seconds = pieces.max_samples(ours.checkpoint) / RATE
    assert seconds * RATE == (
        int(24 / 6.5 * RATE) if model.config.model_type == "moonshine" else 32000
    )
    cuts = list(vad.split([samples], seconds, seconds / 3))
    assert len(cuts) > 2
    transcript = ours.transcribe(samples)
    expected = [(start, start + len(part) / RATE, theirs(model, part)) for start, part in cuts]
    assert len({len(tokens) for *_, tokens in expected}) > 1  # some texts end by themselves
    said = [(s.start, s.end, s.details["tokens"]) for s in transcript.segments]
    assert said == [piece for piece in expected if piece[2]]
    assert transcript.text == " ".join(s.text for s in transcript.segments)
    assert transcript.duration == len(samples) / RATE
    assert transcript.language == "en"
    for segment in transcript.segments:
        assert segment.text == ours.checkpoint.tokenizer.decode(segment.details["tokens"])
        assert segment.words == []


def test_a_text_by_hand(pair):
    """One piece, token by token, by the programs themselves."""
    ours, _ = pair
    samples, engine = sound(1.3, 3), ours.head.engine
    config, programs = ours.checkpoint.config, ours.checkpoint.family.programs
    features = ours.checkpoint.frontend(samples)
    states = engine.run(programs["encode"], config, features[None], np.array([len(features)]))
    cross = engine.run(programs["cross_kv"], config, *states)
    tokens, logs = [1], []
    for _ in range(int(6.5 * 1.3)):
        ids = np.array([tokens])
        decoded, _ = engine.run(programs["decode"], config, ids, np.zeros(1, int), cross)
        logits = engine.array(engine.run(programs["logits"], config, decoded))[0, -1]
        logs.append(logits.max() - np.log(np.exp(logits).sum()))
        tokens.append(int(logits.argmax()))
        if tokens[-1] == 2:
            break
    text = [token for token in tokens[1:] if token != 2]
    (segment,) = ours.transcribe(samples).segments
    assert segment.details["tokens"] == text
    assert segment.text == "".join(NAMES[t].replace("\u2581", " ") for t in text).strip()
    mean = sum(logs) / (len(text) + 1)
    assert segment.confidence == pytest.approx(np.exp(mean), rel=1e-4)


def test_beams_find_texts_as_likely_as_they_say(pair):
    ours, _ = pair
    forced, settings = ours.head.forced, (ours.checkpoint.family, ours.checkpoint.config)
    for seed in range(6):
        samples = sound(1.5, seed)
        features = ours.checkpoint.frontend(samples)
        greedy, beam = (ours.transcribe(samples, beam_size=size).segments for size in (1, 4))
        assert greedy == ours.transcribe(samples).segments
        for segment in (*greedy, *beam):
            tokens = segment.details["tokens"]
            ended = [2] if len(tokens) < int(6.5 * 1.5) else []
            inputs = features[None], np.array([len(features)]), np.array([[1, *tokens]])
            logits = ours.head.engine.run(forced, settings, *inputs, np.zeros(1, int))[0]
            logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
            total = sum(row[t] for row, t in zip(logs, [*tokens, *ended], strict=False))
            mean = segment.details["avg_logprob"]
            assert mean == pytest.approx(total / (len(tokens) + 1), abs=2e-4)


def test_a_stream_gives_segments_as_they_are_ready(pair):
    ours, _ = pair
    samples, seen, read = spoken(9.3), [], []

    def blocks():
        for part in np.array_split(samples, 20):
            read.append(len(part))
            yield part

    session = ours.session()
    texts = []
    segments = session.segments(blocks(), seen.append)
    first = next(segments)
    assert sum(read) < len(samples)  # the rest has not been heard
    texts.append(session.text)
    for _ in segments:
        texts.append(session.text)
    whole = ours.transcribe(samples)
    assert first == whole.segments[0]
    assert all(after.startswith(before) for before, after in pairwise(texts))
    assert texts[-1] == whole.text
    assert seen == sorted(seen)
    assert seen[-1] == whole.duration
    assert list(ours.transcribe(samples, stream=True)) == whole.segments


@pytest.mark.parametrize("samples", [0, 1, 100, 894])
def test_a_recording_too_short_to_encode(pair, samples):
    ours, _ = pair
    transcript = ours.transcribe(noise(1)[:samples])
    if samples == 0 or ours.checkpoint.config.bins == 1:
        assert (transcript.text, transcript.segments) == ("", [])
    assert transcript.duration == samples / RATE


def test_silence_ends_like_any_sound(pair):
    ours, model = pair
    silence = np.zeros(4 * RATE, np.float32)
    transcript = ours.transcribe(silence)
    assert transcript.duration == 4
    tokens = [s.details["tokens"] for s in transcript.segments]
    limit = pieces.max_samples(ours.checkpoint) / RATE
    parts = [part for _, part in vad.split([silence], limit, limit / 3)]
    assert tokens == [t for part in parts if (t := theirs(model, part))]


def test_every_piece_draws_other_numbers(pair, monkeypatch):
    """The same sound twice gives two texts above temperature 0, and a seed the same two again."""
    ours, _ = pair
    piece = spoken(2)
    monkeypatch.setattr(vad, "split", lambda *_: iter([(0.0, piece), (2.0, piece)]))
    options = {"temperature": 2.0, "seed": 1, "suppress_tokens": [2]}  # no text ends early
    first, again = ([s.text for s in ours.transcribe(piece, **options).segments] for _ in "12")
    assert len(first) == 2
    assert first[0] != first[1]
    assert first == again


def test_options_that_decide_on_tokens_hold(pair):
    ours, _ = pair
    sounds = [sound(1.9, seed) for seed in range(10)]
    samples = max(sounds, key=lambda samples: len(ours.transcribe(samples).text))
    tokens = ours.transcribe(samples).segments[0].details["tokens"]
    assert len(tokens) > 3
    (short,) = ours.transcribe(samples, max_new_tokens=2).segments
    assert short.details["tokens"] == tokens[:2]
    (other,) = ours.transcribe(samples, suppress_tokens=[tokens[0]]).segments
    assert tokens[0] not in other.details["tokens"]
    drawn = [ours.transcribe(samples, temperature=2.0, seed=seed).text for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert ours.transcribe(samples, language="en", without_timestamps=True).text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"word_timestamps": True}, "does not support word_timestamps"),
        ({"task": "translate"}, "does not support task"),
        ({"language": "kk"}, "does not know the language 'kk'"),
        ({"initial_prompt": "a"}, "does not support initial_prompt"),
        ({"hotwords": "a"}, "does not support hotwords"),
        ({"vad_filter": True}, "does not support vad_filter"),
        ({"clip_timestamps": "1,2"}, "does not support clip_timestamps"),
        ({"temperature": (0.0, 0.5)}, "one temperature"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused_in_one_line(pair, options, says):
    ours, _ = pair
    with pytest.raises(TyndaError, match=says) as error:
        ours.session(**options)
    assert "\n" not in str(error.value)
    with pytest.raises(TyndaError, match=says):
        ours.prepare(ours.options(**options))


def test_a_language_cannot_be_chosen_among_several(checkpoint, tmp_path):
    path, _ = checkpoint
    for file in path.iterdir():
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").write_text("---\nlanguage:\n- en\n- kk\n---\n")
    model = tynda.load(tmp_path, backend="numpy")
    assert model.header.languages == ["en", "kk"]
    assert model.transcribe(sound(0.5)).language is None
    with pytest.raises(TyndaError, match="detects the language itself"):
        model.session(language="en")


def test_states_and_logits_are_of_one_piece(pair):
    ours, _ = pair
    limit = pieces.max_samples(ours.checkpoint)
    samples = sound(9)
    np.testing.assert_array_equal(ours.encode(samples), ours.encode(samples[:limit]))
    # Each output of the decoder is scored, that of the start included.
    logits = ours.logits(samples, "abc")
    assert logits.shape == (5, ours.checkpoint.config.vocab)


def test_the_command_line_writes_what_python_does(checkpoint, tmp_path):
    from click.testing import CliRunner

    from tynda.cli import main

    path, _ = checkpoint
    write_wav(tmp_path / "a.wav", spoken(9.3))
    file = str(tmp_path / "a.wav")
    result = CliRunner().invoke(main, ["transcribe", "--model", str(path), file])
    assert result.exit_code == 0, result.output
    assert result.stdout == tynda.load(path).transcribe(file).text + "\n"
    refused = ["transcribe", "--model", str(path), "--word-timestamps", file]
    result = CliRunner().invoke(main, refused)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
