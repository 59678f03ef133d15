"""One window of Whisper's decoder, compared with openai-whisper; some rules by hand."""

import re
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tynda
from tynda import manifest
from tynda.compile.engine import open_engine
from tynda.errors import TyndaError
from tynda.heads.seq2seq import programs
from tynda.heads.seq2seq import search as decoding
from tynda.heads.seq2seq.choices import RandomSource, Sampler
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.rules import Rules
from tynda.score import score
from tynda.sound import audio
from whisper_peer import openai, pair

DEMO = Path(__file__).parents[1] / "demo"
CASES = {
    "greedy": {},
    "until_the_context_ends": {"max_new_tokens": None, "prompt": list(range(1000, 1300))},
    "without_timestamps": {"without_timestamps": True},
    "beam": {"beam_size": 3},
    "patient_beam": {"beam_size": 2, "patience": 2.0, "length_penalty": 0.6},
    "translate": {"task": "translate", "language": "kk"},
    "prompt": {"prompt": list(range(1000, 1300))},
    "prefix": {"prefix": [1, 2, 3]},
    "free": {"suppress_tokens": (), "suppress_blank": False, "max_initial_timestamp": None},
}


def mel(config, batch=2, seed=0):
    shape = (batch, 2 * config.frames, config.bins)
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def hear(network, features):
    return network.cross_kv(*network.encode(features, np.full(len(features), features.shape[1])))


@pytest.fixture(scope="module", params=[(0, True, 1.0), (1, False, 1.4)], ids=["multi", "en"])
def models(request):
    seed, multilingual, ends = request.param
    return pair(seed, multilingual, ends)


@pytest.mark.parametrize("name", CASES)
def test_windows_are_those_of_openai(models, name):
    theirs, network = models
    if name == "until_the_context_ends" and not network.tokenizer.multilingual:
        pytest.skip("long; one model is enough")
    case = {"max_new_tokens": 30} | CASES[name]
    language = case.pop("language", "en")
    code = language if network.tokenizer.multilingual else None
    prompt, prefix = case.pop("prompt", ()), case.pop("prefix", ())
    features = mel(network.config, 1)
    (window,) = decoding.decode(
        network,
        hear(network, features),
        Options(**case),
        [code],
        prompt=prompt,
        prefix=prefix,
    )
    if "max_initial_timestamp" not in case:  # openai-whisper assumes 30 s for any encoder
        case["max_initial_timestamp"] = 1.0 * 1500 / network.config.frames
    renamed = {"max_new_tokens": "sample_len"}
    (other,) = openai.decode(
        theirs,
        torch.from_numpy(features).transpose(1, 2),
        openai.DecodingOptions(
            **{renamed.get(k, k): v for k, v in case.items()},
            language=language,
            prompt=list(prompt) or None,
            prefix=list(prefix) or None,
            fp16=False,
        ),
    )
    assert window.tokens == other.tokens
    # A random model generates language tokens in its text; only openai-whisper prints them.
    assert window.text == re.sub(r"<\|\w+\|>", "", other.text).strip()
    assert window.avg_logprob == pytest.approx(other.avg_logprob, rel=1e-4)
    assert window.no_speech_prob == pytest.approx(other.no_speech_prob, rel=1e-3)
    assert window.compression_ratio == pytest.approx(openai.utils.compression_ratio(window.text))


def test_a_timestamp_is_next_where_all_of_them_are_likelier_than_any_word():
    """The rule is decided without a softmax; the softmax must decide the same."""
    _, network = pair()
    tokenizer, vocab = network.tokenizer, network.config.vocab
    begin, text = tokenizer.timestamp_begin, [tokenizer.timestamp_begin, 400, 500]
    rules = Rules(tokenizer, vocab, Options(suppress_tokens=()))
    rng, decided = np.random.default_rng(0), []
    for lead in np.linspace(-2, 12, 57):  # of the likeliest word; 1500 times add up to about 7.8
        logits = rng.standard_normal((1, vocab)).astype(np.float32)
        logits[0, 100] = logits[0, begin:].max() + lead
        known = logits[0].astype(np.float64)
        known[[tokenizer.no_timestamps, begin]] = -np.inf  # No segment is empty.
        expected = np.exp(known[begin:]).sum() > np.exp(known[:begin].max())
        rules.apply(logits, [text])
        assert np.isinf(logits[0, :begin]).all() == expected
        decided.append(expected)
    assert len(set(decided)) == 2
    # Where nothing is left, no timestamp appears.
    logits = np.full((1, vocab), -np.inf, np.float32)
    rules.apply(logits, [text])
    assert np.isinf(logits).all()


@pytest.mark.parametrize("backend", ["native", "numpy", "torch"])
def test_a_repeated_step_is_that_of_single_runs(backend):
    """The cache of one is changed in place, and a result lasts until the next call."""
    _, network = pair()
    weights = network.engine._weights
    engine = open_engine(dict(weights), dict.fromkeys(weights, True), backend)
    network = replace(network, engine=engine)
    cross = hear(network, mel(network.config, 2))
    caches = [network.cache(2, 8) for _ in range(2)]
    settings = (network.family, network.config)
    tokens, starts = np.array([[7], [9]]), np.zeros(2, np.int64)
    step = network.stepper(tokens, starts, cross, caches[0])
    for at in range(3):
        states, logits, _ = step(tokens + at, starts + at)
        expected = engine.run(programs.step, settings, tokens + at, starts + at, cross, caches[1])
        np.testing.assert_array_equal(engine.array(states), engine.array(expected[0]))
        np.testing.assert_array_equal(engine.array(logits), engine.array(expected[1]))
    for mine, other in zip(caches[0].keys, caches[1].keys, strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine[:, :3].all()
        assert not mine[:, 3:].any()


def test_the_random_models_say_enough_to_tell_decoders_apart(models):
    _, network = models
    language = "en" if network.tokenizer.multilingual else None
    windows = decoding.decode(
        network, hear(network, mel(network.config)), Options(), [language] * 2
    )
    assert all(len(set(w.tokens)) > 3 for w in windows)
    assert windows[0].tokens != windows[1].tokens


def test_languages_are_those_of_openai():
    theirs, network = pair()
    features = mel(network.config)
    ours = decoding.detect_language(network, hear(network, features))
    with torch.no_grad():
        _, expected = theirs.detect_language(torch.from_numpy(features).transpose(1, 2))
    for mine, other in zip(ours, expected, strict=True):
        assert mine == pytest.approx(other, rel=1e-3)


def test_one_language_cannot_be_detected():
    _, network = pair(1, False)
    with pytest.raises(TyndaError, match="one language"):
        decoding.detect_language(network, hear(network, mel(network.config, 1)))


@pytest.mark.parametrize(("changes", "ends"), [({}, 5), ({"best_of": 2}, 10)])
def test_windows_that_have_ended_leave_a_batch(changes, ends, monkeypatch):
    _, network = pair(ends=ends)
    features = mel(network.config, 8)
    options = replace(Options(beam_size=None, max_new_tokens=60), **changes)
    temperature = 0.7 if changes else 0.0
    left = []
    keep = decoding.Decoder.keep

    def recorded(self, windows, rows):
        left.append((len(windows), len(rows)))
        keep(self, windows, rows)

    def decode(features, source=None):
        heard, languages = hear(network, features), ["en"] * len(features)
        return decoding.decode(
            network, heard, options, languages, temperature=temperature, random=source
        )

    monkeypatch.setattr(decoding.Decoder, "keep", recorded)
    together = decode(features)
    assert left
    assert all(rows == windows * options.best_of if changes else True for windows, rows in left)
    monkeypatch.setattr(Sampler, "going", lambda self, texts, rows: range(len(features)))
    assert [x.tokens for x in decode(features)] == [x.tokens for x in together]
    assert [x.avg_logprob for x in decode(features)] == [x.avg_logprob for x in together]
    assert len({len(x.tokens) for x in together}) > 2


def test_an_unknown_language_is_refused():
    _, network = pair()
    with pytest.raises(TyndaError, match=r"'tlh'.*en, zh"):
        decoding.decode(network, hear(network, mel(network.config, 1)), Options(), ["tlh"])


def test_a_batch_gives_each_window_what_it_gets_alone():
    _, network = pair()
    features = mel(network.config, 3)
    options = Options(beam_size=2, max_new_tokens=20)
    languages = ["en", "kk", "uk"]
    together = decoding.decode(network, hear(network, features), options, languages)
    for i, language in enumerate(languages):
        alone = decoding.decode(network, hear(network, features[i : i + 1]), options, [language])
        assert together[i].tokens == alone[0].tokens


def test_draws_follow_the_softmax():
    draws = Sampler(0.5, RandomSource(1), eot=99)
    logs = np.log(np.array([[0.1, 0.2, 0.7]], np.float32))
    counts = np.zeros(3)
    for _ in range(4000):
        _, (token,), _ = draws.choose(logs, np.zeros(1, np.float32), [[]])
        counts[token] += 1
    expected = np.array([0.01, 0.04, 0.49]) / 0.54  # probabilities ** (1 / 0.5)
    np.testing.assert_allclose(counts / 4000, expected, atol=0.02)


def test_the_best_of_several_draws_is_kept():
    _, network = pair()
    heard = hear(network, mel(network.config, 1))
    one, many = (
        decoding.decode(
            network, heard, Options(best_of=n, max_new_tokens=12), ["en"], temperature=1.0
        )[0]
        for n in (1, 8)
    )
    assert many.avg_logprob > one.avg_logprob
    assert many.temperature == 1.0


def test_no_repeated_ngrams():
    _, network = pair()
    heard = hear(network, mel(network.config, 1))
    (window,) = decoding.decode(network, heard, Options(no_repeat_ngram_size=2), ["en"])
    pairs = list(zip(window.tokens, window.tokens[1:], strict=False))
    assert len(set(pairs)) == len(pairs) > 10


def test_a_penalty_on_repetition_spreads_the_tokens():
    _, network = pair()
    heard = hear(network, mel(network.config, 1))
    (plain,) = decoding.decode(network, heard, Options(), ["en"])
    (spread,) = decoding.decode(network, heard, Options(repetition_penalty=3.0), ["en"])
    assert len(set(spread.tokens)) > len(set(plain.tokens))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"window": "wide"}, "exact or merged or fit"),
        ({"window_margin": -1}, "window_margin"),
        ({"window_margin": float("nan")}, "window_margin"),
        ({"window_floor": "x"}, "window_floor"),
        ({"window_floor": 0}, "window_floor"),
        ({"seed": -1}, "seed"),
        ({"no_repeat_ngram_size": -2}, "no_repeat_ngram_size"),
        ({"max_initial_timestamp": -1}, "max_initial_timestamp"),
        ({"hallucination_silence_threshold": -1}, "hallucination_silence_threshold"),
        ({"clip_timestamps": (-1,)}, "clip_timestamps"),
        ({"suppress_tokens": "x"}, "suppress_tokens"),
        ({"task": "sing"}, "transcribe or translate"),
        ({"temperature": (0, -1)}, "temperature"),
        ({"temperature": ()}, "temperature"),
        ({"length_penalty": 2}, "length_penalty"),
        ({"beam_size": 0}, "beam_size"),
        ({"best_of": 0}, "best_of"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"patience": 0}, "patience"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(TyndaError, match=says):
        Options(**options)


@pytest.mark.parametrize(
    ("training", "warns"),
    [
        ({}, True),
        ({"recipe": {"data": {"window": "exact"}}}, True),
        ({"recipe": {"data": {"window": "fit"}}}, False),
        ({"recipe": ["a", "damaged", "header"]}, True),
    ],
)
def test_a_short_window_is_not_chosen_silently(training, warns):
    """Only a model that was trained on short windows has its usual words with them."""
    model = tynda.load(Path(__file__).parent / "data" / "witness-whisper.safetensors")
    model.header.training = training
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.prepare(model.options(window="fit"))
        model.prepare(model.options())
    assert [str(x.message).partition(":")[0] for x in said] == [
        "witness-whisper was trained on full windows only"
    ] * warns


@pytest.mark.filterwarnings("ignore:.*full windows")
def test_a_fitting_window_loses_no_words_of_the_demo():
    """From 5 s on, whisper-base lost a whole text."""
    model, rows = tynda.load("whisper-tiny.en"), manifest.read(DEMO / "manifest.jsonl")
    sound = [audio.load(row.audio) for row in rows]

    def wer(**options):
        texts = [model.transcribe(samples, **options).text for samples in sound]
        assert all(texts)
        pairs = zip((row.text for row in rows), texts, strict=True)
        return score([(model.normalize(a), model.normalize(b)) for a, b in pairs]).wer

    # A recording is a fifth of the words; rounding, which processors do in other orders, moves one
    # or two.
    assert wer(window="fit") <= wer() + 0.05


@pytest.mark.parametrize("changes", [{"temperature": (1e-320,)}, {"repetition_penalty": 1e-300}])
def test_numbers_next_to_zero_do_not_overflow(changes):
    network = pair(0, True)[1]
    options = Options(language="en", max_new_tokens=20, **changes)
    cross = hear(network, mel(network.config, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (result,) = decoding.decode(
            network, cross, options, ["en"], temperature=options.temperature[0]
        )
    assert np.isfinite(result.avg_logprob)
