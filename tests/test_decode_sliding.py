"""Whole recordings through Whisper, compared with openai-whisper; some rules by hand."""

import warnings
import weakref
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from helpers import gather, noise, tone
from tynda.errors import TyndaError
from tynda.heads.seq2seq import sliding
from tynda.heads.seq2seq.align import WordTiming, align, dynamic_time_warping
from tynda.heads.seq2seq.choices import RandomSource
from tynda.heads.seq2seq.options import Options
from tynda.heads.seq2seq.prompt import PromptHistory, warn_of_cuts
from tynda.heads.seq2seq.search import DecodingResult, decode
from tynda.heads.seq2seq.words import TimedSegment, fit_to_segment, merge_punctuations
from tynda.ops.tree import leaves
from whisper_peer import features, pair, same_as_openai, same_dice  # noqa: F401 (a fixture)

# Random models have low scores: thresholds near these test more than the usual ones.
DOUBT = {"logprob_threshold": None, "compression_ratio_threshold": 1.3}
CASES = {
    "one_window": (3, {}),
    "several_windows": (40, {}),
    "nothing_remembered": (40, {"condition_on_previous_text": False}),
    "initial_prompt": (40, {"initial_prompt": "Тыңда, kathleen"}),
    "carried_prompt": (40, {"initial_prompt": "Тыңда", "carry_initial_prompt": True}),
    "fallback": (40, DOUBT | {"temperature": (0.0, 0.4, 1.0)}),
    "silence": (40, {"no_speech_threshold": 1e-7, "logprob_threshold": -1.0}),
    "clips": (40, {"clip_timestamps": (1.0, 4.0, 31.0)}),
    "clips_that_overlap": (40, {"clip_timestamps": (0.0, 10.0, 5.0, 15.0)}),
    "words": (40, {"word_timestamps": True}),
    "doubtful": (40, {"word_timestamps": True, "hallucination_silence_threshold": 0.4}),
    "without_timestamps": (40, {"without_timestamps": True, "word_timestamps": True}),
    "beams": (12, {"beam_size": 2}),
    "translate": (3, {"task": "translate", "language": "kk", "word_timestamps": True}),
}


@cache
def sound(seconds):
    """Tones and noise with pauses between them."""
    rng = np.random.default_rng(1)
    parts = []
    while sum(map(len, parts)) < seconds * 16000:
        length = rng.uniform(0.3, 1.5)
        parts += [noise(length, len(parts)), tone(rng.uniform(100, 900), length)]
        parts += [np.zeros(int(rng.uniform(0, 12000)), np.float32)]
    return np.concatenate(parts)[: seconds * 16000]


def heard(models, seconds, changes):
    usual = {"temperature": (0.0,), "max_new_tokens": 24, "no_speech_threshold": None}
    usual |= {"best_of": None}  # as openai's function has it
    return same_as_openai(models, sound(seconds), usual | changes)


@pytest.fixture(scope="module", params=[(0, True), (3, False)], ids=["multi", "en"])
def models(request):
    seed, multilingual = request.param
    return pair(seed, multilingual, ends=1.3, frames=1500, layers=1)


@pytest.mark.usefixtures("same_dice")
@pytest.mark.parametrize("name", CASES)
def test_recordings_are_those_of_openai(models, name):
    pieces = heard(models, *CASES[name])
    if name == "fallback":
        assert max(p.result.temperature for p in pieces) > 0
    if name not in ("silence", "doubtful"):
        assert pieces


def test_where_every_try_fails_the_likeliest_is_kept(models):
    """The reference keeps the last, which is drawn at the highest temperature."""
    plain = heard(models, 12, {"logprob_threshold": None, "compression_ratio_threshold": None})
    options = Options(
        temperature=(0.0, 0.4, 1.0), logprob_threshold=0.0, max_new_tokens=24, window="exact"
    )
    pieces, _ = gather(sliding.transcribe, models[1], features(sound(12)), options)
    first = pieces[0].result
    assert first.temperature == 0
    assert first.tokens == plain[0].result.tokens


def test_a_text_that_repeats_itself_is_only_kept_where_all_do(models, monkeypatch):
    ratios = {0.0: 3.0, 0.4: 1.0, 1.0: 2.0}
    monkeypatch.setattr(
        DecodingResult, "compression_ratio", property(lambda window: ratios[window.temperature])
    )
    options = Options(temperature=tuple(ratios), logprob_threshold=0.0, max_new_tokens=8)
    pieces, _ = gather(sliding.transcribe, models[1], features(sound(3)), options)
    assert {piece.result.temperature for piece in pieces} == {0.4}


def test_every_try_of_a_recording_draws_other_numbers(models):
    options = Options(temperature=(1.0,), best_of=None, max_new_tokens=8, language="en")
    silence = features(np.zeros(80 * 16000, np.float32))
    texts = [
        tuple(window.tokens)
        for random in [RandomSource(0)]
        for cross in [sliding.encode_windows(models[1], [silence.window(0, 3000)], options)]
        for _ in range(3)
        for (window,) in [decode(models[1], cross, options, ["en"], temperature=1.0, random=random)]
    ]
    assert len(set(texts)) == 3


@pytest.mark.slow
@pytest.mark.usefixtures("same_dice")
@pytest.mark.parametrize(
    "changes", [{"word_timestamps": True}, DOUBT | {"temperature": (0.0, 1.0)}]
)
def test_five_minutes_are_those_of_openai(models, changes):
    pieces = heard(models, 300, changes)
    assert pieces[-1].end > 270


def test_a_fitting_window_encodes_what_is_left(models, monkeypatch):
    network = models[1]
    sizes = []
    encode = type(network).encode

    def watch(self, features, lengths):
        sizes.append((features.shape[1], int(lengths[0])))
        return encode(self, features, lengths)

    monkeypatch.setattr(type(network), "encode", watch)
    short = {"temperature": (0.0,), "max_new_tokens": 5, "no_speech_threshold": None}
    for margin, floor, expected in ((1.0, 2.0, 400), (0.5, 8.0, 800), (60, 1, 3000)):
        sizes.clear()
        options = Options(window="fit", window_margin=margin, window_floor=floor, **short)
        pieces, _ = gather(sliding.transcribe, network, features(sound(3)), options)
        assert sizes[0] == (expected, expected)
        assert max(sizes) == (expected, expected)
        assert pieces


def test_windows_make_room_for_each_other(models, monkeypatch):
    alive = []
    hear = sliding.encode_windows

    def spy(*arguments):
        assert not any(ref() is not None for ref in alive)
        found = hear(*arguments)
        alive[:] = [weakref.ref(tensor) for tensor in leaves(found)]
        assert alive
        return found

    monkeypatch.setattr(sliding, "encode_windows", spy)
    options = Options(temperature=(0.0,), max_new_tokens=5, no_speech_threshold=None)
    gather(sliding.transcribe, models[1], features(sound(70)), options)


def test_progress_reaches_the_end(models):
    seen = []
    options = Options(temperature=(0.0,), max_new_tokens=5, no_speech_threshold=None)
    gather(sliding.transcribe, models[1], features(sound(3)), options, on_progress=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == 3


def test_clips_are_transcribed_in_the_order_of_time(models):
    options = Options(temperature=(0.0,), max_new_tokens=5, no_speech_threshold=None)
    found = [
        gather(
            sliding.transcribe, models[1], features(sound(20)), replace(options, clip_timestamps=t)
        )
        for t in ((8, 11, 0, 5), (0, 5, 8, 11))
    ]
    assert [(p.start, p.end, p.text) for p in found[0][0]] == [
        (p.start, p.end, p.text) for p in found[1][0]
    ]
    assert found[0][0][0].start < 5


def test_progress_goes_on_in_silence(models):
    seen = []
    options = Options(
        temperature=(0.0,), max_new_tokens=5, no_speech_threshold=-1, logprob_threshold=100
    )
    samples = np.zeros(100 * 16_000, np.float32)
    found, _ = gather(
        sliding.transcribe, models[1], features(samples), options, on_progress=seen.append
    )
    assert (found, seen) == ([], [30, 60, 90, 100])


def test_the_language_has_a_probability_where_it_is_detected(models):
    network, given = models[1], []
    options = Options(temperature=(0.0,), max_new_tokens=5, no_speech_threshold=None)
    for changed in (options, replace(options, language="en")):
        found = sliding.transcribe(
            network, features(sound(40)), changed, lambda *language: given.append(language)
        )
        assert next(p.seek for p in found) == 0
        assert [*found] != []
    (*_, detected), stated = given[:-1], given[-1]
    if not network.tokenizer.multilingual:
        assert given == [(None, None), ("en", None)]
        return
    assert stated == ("en", None)
    assert detected[0] in network.tokenizer.languages
    assert 0 < detected[1] <= 1


def test_hot_words_stand_before_every_window_but_not_before_a_prefix(models):
    network = models[1]
    encode = network.tokenizer.encode
    history = PromptHistory(network, Options(hotwords="tynda", initial_prompt="so"))
    assert history.prompt() == encode(" tynda") + encode(" so")
    history.add(list(range(400)), temperature=0.0)
    assert history.prompt() == encode(" tynda") + list(range(400))[-223 + len(encode(" tynda")) :]
    history = PromptHistory(network, Options(hotwords="tynda", prefix="so"))
    assert history.prompt() == []
    assert history.prefix() == encode(" so")
    assert history.prefix() == []
    assert history.prompt() == encode(" tynda")


def test_a_carried_prompt_stays_whole_beside_hot_words(models):
    network = models[1]
    encode = network.tokenizer.encode
    history = PromptHistory(
        network, Options(hotwords="tynda", initial_prompt="so far", carry_initial_prompt=True)
    )
    history.add(list(range(400)), temperature=0.0)
    fixed = encode(" tynda") + encode(" so far")
    assert history.prompt() == fixed + list(range(400))[len(fixed) - 223 :]


def test_a_prompt_that_is_cut_says_so(models):
    network = models[1]
    count = len(network.tokenizer.encode(" " + " ".join(["abc"] * 300)))
    half = network.config.context // 2

    def said(**given):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            warn_of_cuts(network.tokenizer, network.config.context, Options(**given))
        return [str(each.message) for each in found]

    text = " ".join(["abc"] * 300)
    assert said(initial_prompt="so", hotwords="tynda") == []
    assert said(initial_prompt=text) == [
        f"initial_prompt has {count} tokens, of which the last {half - 1} are used: shorten it"
    ]
    both = said(initial_prompt=text, hotwords=text.split())
    assert f", of which the first {half // 2} are used" in both[0]
    assert f"{count} tokens, of which the last {half - 1 - half // 2} are used" in both[1]


def test_every_window_may_have_its_language(models, monkeypatch):
    spoken = iter(["kk", "kk", "en"])
    monkeypatch.setattr(sliding, "likeliest_languages", lambda *_: [(next(spoken), 0.9)])
    used = []

    def watch(*arguments, **given):
        used.append((arguments[3], list(given["prompt"])))
        return decode(*arguments, **given)

    monkeypatch.setattr(sliding, "decode", watch)
    options = Options(
        multilingual=True,
        temperature=(0.0,),
        max_new_tokens=12,
        no_speech_threshold=None,
        without_timestamps=True,
        initial_prompt="so",
    )
    pieces, language = gather(sliding.transcribe, models[1], features(sound(70)), options)
    assert language == "kk"
    assert [piece.language for piece in pieces] == ["kk", "kk", "en"]
    assert [languages for languages, _ in used] == [["kk"], ["kk"], ["en"]]
    prompts = [prompt for _, prompt in used]
    assert prompts[0] == models[1].tokenizer.encode(" so")
    assert len(prompts[1]) > len(prompts[0])
    assert prompts[2] == []


def test_multilingual_excludes_a_language():
    with pytest.raises(TyndaError, match="multilingual detects the language of every window"):
        Options(multilingual=True, language="kk")


def brute_warp(cost):
    """Return the minimum sum over all monotonic paths."""
    n, m = cost.shape
    best = np.full((n, m), np.inf)
    for i in range(n):
        for j in range(m):
            before = [
                best[a, b] for a, b in ((i - 1, j - 1), (i - 1, j), (i, j - 1)) if min(a, b) >= 0
            ]
            best[i, j] = cost[i, j] + min(before, default=0.0)
    return best[-1, -1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (2, 2), (4, 9), (9, 4), (30, 50)])
def test_the_path_is_the_cheapest(shape):
    from whisper.timing import dtw_cpu

    for seed in range(5):
        cost = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        rows, columns = dynamic_time_warping(cost)
        assert cost[rows, columns].sum() == pytest.approx(brute_warp(cost), abs=1e-4)
        expected = dtw_cpu(cost.astype(np.float64))
        assert (rows.tolist(), columns.tolist()) == tuple(x.tolist() for x in expected)


def test_nothing_to_align(models):
    assert align(models[1], None, [], "en", "transcribe", 100) == []
    assert align(models[1], None, [1], "en", "transcribe", 0) == []


def test_marks_join_the_words_that_they_belong_to():
    texts = [' "', "Hi", ",", " you", "!", '"', " (", "no", ")"]
    words = [WordTiming(t, [i], 0, 0, 0.5) for i, t in enumerate(texts)]
    merge_punctuations(words, Options.prepend_punctuations, Options.append_punctuations)
    assert [(w.word, w.tokens) for w in words if w.word] == [
        (' "Hi,', [0, 1, 2]),
        (' you!"', [3, 4, 5]),
        (" (no)", [6, 7, 8]),
    ]


def test_a_pause_is_not_part_of_the_word_after_it():
    window = DecodingResult([], "", None, 0.0, 0.0, 0.0)
    words = [WordTiming("so", [1], 0.0, 5.0, 0.9), WordTiming(" it", [2], 5.0, 5.2, 0.9)]
    piece = TimedSegment(4.5, 5.2, [], "so it", window, words)
    fit_to_segment(piece, median_duration=0.3, last_speech_end=0.0)
    assert words[0].start == pytest.approx(4.4)  # twice the usual length
    assert piece.start == pytest.approx(4.4)


@pytest.mark.parametrize(
    ("given_", "told"),
    [
        ({}, "needs word times: set word_timestamps too"),
        ({"word_timestamps": True, "vad_filter": True}, "does not apply with vad_filter"),
    ],
)
def test_options_that_do_nothing_together_are_refused(given_, told):
    with pytest.raises(TyndaError, match=f"hallucination_silence_threshold {told}"):
        Options(hallucination_silence_threshold=2.0, **given_)


def test_a_prefix_needs_a_first_window():
    with pytest.raises(TyndaError, match="prefix applies to the first window"):
        Options(prefix="so", vad_filter=True)


def test_openais_spellings_of_the_options_are_taken():
    given = {"temperature": 0.5, "suppress_tokens": "-1,7", "clip_timestamps": "1,2.5"}
    none = {"initial_prompt": None, "prefix": None, "hotwords": None}
    options = Options(**given, **none)
    assert options.temperature == (0.5,)
    assert list(options.suppress_tokens) == [-1, 7]
    assert options.clip_timestamps == (1.0, 2.5)
    assert options.initial_prompt == options.prefix == ""
    assert options.hotwords == ()
    assert Options(clip_timestamps=3).clip_timestamps == (3,)
    assert list(Options(suppress_tokens=None).suppress_tokens) == []
    assert list(Options(suppress_tokens="").suppress_tokens) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("temperature", "hot", "temperature must be numbers"),
        ("temperature", (), "temperature must have at least one number"),
        ("temperature", -0.5, "temperature must be a list, each a number from 0 to 1000"),
        ("clip_timestamps", "5,2", "must end after they begin"),
        ("clip_timestamps", (0.0, 1.0, 3.0, 3.0), "must end after they begin"),
        ("suppress_tokens", object(), "must be a list"),
        ("length_penalty", "a", "length_penalty must be a number from 0 to 1"),
        ("initial_prompt", 7, "initial_prompt must be text, not 7"),
        ("hotwords", [7], "hotwords must be words"),
    ],
)
def test_options_that_cannot_be(name, value, told):
    with pytest.raises(TyndaError, match=told):
        Options(**{name: value})
