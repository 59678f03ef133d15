"""Training data: selection, buckets and batches."""

import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from helpers import RATE, noise, write_manifest, write_wav  # noqa: E402
from tynda import manifest  # noqa: E402
from tynda.errors import TyndaError  # noqa: E402
from tynda.sound import audio  # noqa: E402
from tynda.sound.frontend import LogMel  # noqa: E402
from tynda.text.tokenizer import ENGLISH  # noqa: E402
from tynda.train.data import (  # noqa: E402
    Corpus,
    Examples,
    buckets,
    collate,
    iterate,
    plan_epoch,
    read_sources,
)
from tynda.train.phones import PHONES, Lexicon  # noqa: E402
from tynda.train.recipe import Augment, Source  # noqa: E402

TEXTS = ["one", "two", "one two", "three", "", "Two!"]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six utterances of 0.5 s to 3 s by two speakers, in the manifest m.jsonl."""
    folder = tmp_path_factory.mktemp("data")
    rows = []
    for i, text in enumerate(TEXTS):
        write_wav(folder / f"{i}.wav", noise(0.5 * (i + 1), seed=i))
        rows.append((f"{i}.wav", text, {"speaker": "ann" if i % 2 else "bob"}))
    write_manifest(folder / "m.jsonl", rows)
    return folder


@pytest.fixture(scope="module")
def corpus(folder, tmp_path_factory):
    return Corpus(manifest.read(folder / "m.jsonl"), tmp_path_factory.mktemp("cache"))


def test_a_corpus_holds_the_sound_of_each_file(folder, corpus):
    assert len(corpus) == 6
    for i in range(6):
        expected = audio.load(folder / f"{i}.wav")
        assert corpus.seconds(i) == len(expected) / RATE == 0.5 * (i + 1)
        np.testing.assert_allclose(corpus.samples(i), expected, atol=0.5 / 32768)
        assert corpus.samples(i).dtype == np.float32


def test_a_corpus_is_decoded_once_and_anew_when_a_file_changes(tmp_path):
    write_wav(tmp_path / "a.wav", noise(0.1))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")]))
    cache = tmp_path / "cache"
    first = Corpus(utterances, cache).samples(0)
    files = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    np.testing.assert_array_equal(Corpus(utterances, cache).samples(0), first)
    assert files == {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    write_wav(tmp_path / "a.wav", noise(0.2))
    assert Corpus(utterances, cache).seconds(0) == 0.2


@pytest.mark.parametrize("content", [None, b"no sound"])
def test_a_recording_that_cannot_be_read_is_named(tmp_path, content):
    if content:
        (tmp_path / "lost.wav").write_bytes(content)
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("lost.wav", "one")]))
    with pytest.raises(TyndaError, match=r"lost\.wav"):
        Corpus(utterances, tmp_path / "cache")


def test_a_few_recordings_that_cannot_be_read_are_left_out(tmp_path):
    rows = [(f"{i}.wav", "one") for i in range(11)]
    for i in range(1, 11):
        write_wav(tmp_path / f"{i}.wav", noise(0.1))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", rows))
    with pytest.warns(UserWarning, match=r"left out: .*0\.wav") as told:
        corpus = Corpus(utterances, tmp_path / "cache")
    assert len(told) == 1
    assert [corpus.seconds(i) for i in range(11)] == [0, *[0.1] * 10]
    chosen = plan_epoch(corpus, [Source("m", join=2)], [range(11)], 20, rng())
    assert sorted(i for example in chosen for i in example) == list(range(1, 11))
    (tmp_path / "1.wav").write_bytes(b"no sound")
    with pytest.raises(TyndaError, match=r"2 of 11 recordings.*0\.wav"):
        Corpus(utterances, tmp_path / "cache")


def test_a_cache_that_is_cut_is_made_anew(tmp_path):
    write_wav(tmp_path / "a.wav", noise(0.1))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")]))
    first = Corpus(utterances, tmp_path / "cache").samples(0)
    files = sorted((tmp_path / "cache").iterdir())
    assert len(files) == 2
    for file in files:
        whole = file.read_bytes()
        for content in (whole[:-2], whole[:10], b"", b"nonsense"):
            file.write_bytes(content)
            np.testing.assert_array_equal(Corpus(utterances, tmp_path / "cache").samples(0), first)
            assert file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path):
    write_wav(tmp_path / "a.wav", noise(0.1))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")]))
    (tmp_path / "file").write_text("")
    with pytest.raises(TyndaError, match="cannot write"):
        Corpus(utterances, tmp_path / "file" / "cache")


def _ignores_interrupts(path):
    return np.array([signal.getsignal(signal.SIGINT) == signal.SIG_IGN], np.int16)


def test_workers_leave_ctrl_c_to_their_parent(tmp_path, monkeypatch):
    write_wav(tmp_path / "a.wav", noise(0.1))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")]))
    monkeypatch.setattr("tynda.train.data._decode", _ignores_interrupts)
    assert Corpus(utterances, tmp_path / "cache").samples(0) == 1 / 32768


def test_texts_of_another_script_are_left_out_or_refused(folder, tmp_path):
    texts = ["one", "два", "...", "", "5"]
    path = write_manifest(tmp_path / "m.jsonl", [("0.wav", text) for text in texts])
    with pytest.warns(UserWarning, match=r"m\.jsonl: 1 of 3 texts have no English letters"):
        utterances, members = read_sources(tmp_path, [Source("m.jsonl")])
    assert [u.text for u in utterances] == ["one", "...", "", "5"]
    assert members == [[0, 1, 2, 3]]
    write_manifest(path, [("0.wav", text) for text in ("один", "два", "one")])
    with pytest.raises(TyndaError, match=r"2 of 3 texts.*English only"):
        read_sources(tmp_path, [Source("m.jsonl")])


def test_sources_leave_out_speakers_and_other_words(folder):
    sources = [
        Source("m.jsonl"),
        Source("m.jsonl", words=("one", "two")),
    ]
    utterances, members = read_sources(folder, sources)
    assert [len(m) for m in members] == [6, 5]
    assert [i for m in members for i in m] == list(range(11))
    bob, _ = read_sources(folder, sources[:1], ["ann"])
    assert {u.speaker for u in bob} == {"bob"}
    assert [utterances[i].text for i in members[1]] == ["one", "two", "one two", "", "Two!"]


def test_no_sources_and_nobody_left_are_errors(folder):
    for sources, excluded in (([], ()), ([Source("m.jsonl")], ("ann", "bob"))):
        with pytest.raises(TyndaError, match=r"data\.train"):
            read_sources(folder, sources, excluded)


def plan(corpus, max_seconds=20.0, seed=0, **source):
    return plan_epoch(corpus, [Source("m", **source)], [range(6)], max_seconds, rng(seed))


def test_weight_is_the_share_of_utterances_in_an_epoch(corpus):
    assert sorted(plan(corpus)) == [(i,) for i in range(6)]
    half = plan(corpus, weight=0.5)
    assert len(half) == len(set(half)) == 3
    more = [i for (i,) in plan(corpus, weight=2.5)]
    assert len(more) == 15
    assert {more.count(i) for i in range(6)} == {2, 3}
    chosen = {i for seed in range(30) for (i,) in plan(corpus, weight=0.5, seed=seed)}
    assert chosen == set(range(6))


def test_up_to_so_many_are_joined_and_none_is_lost(corpus):
    sizes = set()
    for seed in range(40):
        examples = plan(corpus, join=3, seed=seed)
        assert sorted(i for e in examples for i in e) == list(range(6))
        sizes |= {len(e) for e in examples}
    assert sizes == {1, 2, 3}


def test_nothing_longer_than_max_seconds_is_chosen_or_joined(corpus):
    for seed in range(40):
        examples = plan(corpus, join=6, max_seconds=2.5, seed=seed)
        assert all(sum(map(corpus.seconds, e)) <= 2.5 for e in examples)
        assert sorted(i for e in examples for i in e) == [0, 1, 2, 3, 4]
    with pytest.raises(TyndaError, match=r"longer than 0\.4 s .*the shortest is 0\.50 s"):
        plan(corpus, max_seconds=0.4)


def test_why_there_is_nothing_to_train_on(corpus, tmp_path):
    with pytest.raises(TyndaError, match="the weights"):
        plan(corpus, weight=0.01)
    write_wav(tmp_path / "a.wav", noise(0.01))
    utterances = manifest.read(write_manifest(tmp_path / "m.jsonl", [("a.wav", "one")]))
    with pytest.raises(TyndaError, match=r"lasts 0\.05 s"):
        plan_epoch(Corpus(utterances, tmp_path), [Source("m")], [[0]], 20, rng())


def test_each_source_has_its_own_weight(corpus):
    sources = [Source("a", weight=1), Source("b", weight=0), Source("c", weight=2)]
    examples = plan_epoch(corpus, sources, [[0, 1], [2, 3], [4]], 20, rng())
    assert sorted(examples) == [(0,), (1,), (4,), (4,)]


@given(
    st.lists(st.floats(0.01, 30), min_size=1, max_size=60),
    st.floats(1, 100),
    st.integers(0, 99),
    st.booleans(),
)
def test_buckets_hold_every_example_once_and_keep_to_the_limit(seconds, limit, seed, shuffle):
    batches = buckets(seconds, limit, rng(seed), shuffle=shuffle)
    assert sorted(i for batch in batches for i in batch) == list(range(len(seconds)))
    for batch in batches:
        assert batch
        if len(batch) > 1:
            assert max(seconds[i] for i in batch) * len(batch) <= limit
    assert batches == buckets(seconds, limit, rng(seed), shuffle=shuffle)


def test_buckets_hold_what_is_of_like_length_and_are_full():
    seconds = list(rng(1).uniform(1, 10, 500))
    batches = buckets(seconds, 60, rng(2), shuffle=True)
    padded = sum(max(seconds[i] for i in batch) * len(batch) for batch in batches)
    assert padded < 1.15 * sum(seconds)
    assert len(batches) < 1.3 * sum(seconds) / 60
    assert batches != buckets(seconds, 60, rng(3), shuffle=True)


def test_buckets_come_from_short_to_long_or_in_random_order():
    seconds = list(rng(1).uniform(1, 10, 500))
    for shuffle in (False, True):
        batches = buckets(seconds, 60, rng(2), shuffle=shuffle)
        longest = [max(seconds[i] for i in batch) for batch in batches]
        rises = np.mean(np.diff(longest) > 0)
        assert (rises > 0.8) is not shuffle


def test_collate_pads_with_zeros_and_joins_labels():
    features = [np.full((n, 2), n, np.float32) for n in (3, 1)]
    batch = collate(features, [[5, 6], []], [[1], [2, 3]])
    assert batch.features.tolist() == [[[3, 3]] * 3, [[1, 1], [0, 0], [0, 0]]]
    assert batch.lengths.tolist() == [3, 1]
    assert batch.labels.tolist() == [5, 6]
    assert batch.label_lengths.tolist() == [2, 0]
    assert batch.phones.tolist() == [1, 2, 3]
    assert batch.phone_lengths.tolist() == [1, 2]
    assert batch.labels.dtype == torch.long


def letters(said, rng):
    return ENGLISH.encode(" ".join(s.text for s in said if s.text))


def examples(corpus, batches, views=1, seed=(42, 0), lexicon=None, **augment):
    return Examples(
        *(corpus, batches, LogMel(bins=8), letters, lambda features: features, lexicon),
        *(Augment(**augment), corpus, None, views, seed),
    )


def test_a_batch_is_the_features_and_the_letters(corpus):
    batch = examples(corpus, [[(0,), (5,)]])[0]
    assert batch.lengths.tolist() == [50, 300]
    np.testing.assert_array_equal(batch.features[0, :50], LogMel(bins=8)(corpus.samples(0)))
    assert (batch.features[0, 50:] == 0).all()
    assert ENGLISH.decode(batch.labels.tolist()) == "onetwo"
    assert batch.label_lengths.tolist() == [3, 3]
    assert batch.phones.tolist() == []


def test_joined_utterances_have_pauses_and_their_texts_in_order(corpus):
    for seed in range(10):
        batch = examples(corpus, [[(3, 4, 0)]], seed=(seed, 0))[0]
        assert ENGLISH.decode(batch.labels.tolist()) == "three one"
        spoken = sum(map(corpus.seconds, (3, 4, 0)))
        assert spoken + 0.1 <= batch.lengths.item() / 100 <= spoken + 0.8


def test_the_same_epoch_gives_the_same_batches_whoever_makes_them(corpus):
    batches = [[(0,), (1,)], [(2, 3)], [(4,)]]
    options = {"speeds": (0.9, 1.1), "noise": 0.5, "rooms": 0.5, "freq_masks": 2, "freq_width": 3}
    one, two, other = (
        list(iterate(examples(corpus, batches, seed=(42, epoch), **options), workers))
        for workers, epoch in ((1, 0), (3, 0), (1, 1))
    )
    assert len(one) == len(two) == 3
    for a, b, c in zip(one, two, other, strict=True):
        for key, value in vars(a).items():
            assert torch.equal(value, vars(b)[key])
        assert a.features.shape != c.features.shape or not torch.equal(a.features, c.features)


def test_two_views_differ_only_in_their_masks(corpus):
    options = {"noise": 1.0, "freq_masks": 2, "freq_width": 3}
    batch = examples(corpus, [[(0,), (1,)]], views=2, **options)[0]
    first, second = batch.features.chunk(2)
    assert not torch.equal(first, second)
    seen = (first != 0) & (second != 0)
    assert seen.any()
    assert torch.equal(first[seen], second[seen])
    assert batch.lengths.tolist() == [50, 100] * 2
    assert ENGLISH.decode(batch.labels.tolist()) == "onetwo" * 2


@pytest.fixture
def lexicon(tmp_path):
    path = tmp_path / "words.dict"
    path.write_text("one W AH N\none(2) HH W AH N\ntwo T UW\n")
    return Lexicon(path)


def test_words_become_phones_by_their_first_pronunciation(lexicon):
    ids = lexicon.phones("two one")
    assert [PHONES[i - 1] for i in ids] == ["T", "UW", "W", "AH", "N"]
    assert lexicon.phones("") == []
    assert lexicon.phones("one three") is None
    assert lexicon.phones("one(2)") is None
    assert len(PHONES) == len(set(PHONES)) == 39


def test_an_utterance_with_an_unknown_word_has_no_phones(corpus, lexicon):
    batch = examples(corpus, [[(2,), (3,), (1,)]], lexicon=lexicon)[0]
    assert batch.phone_lengths.tolist() == [5, 0, 2]
    assert batch.phones.tolist() == [*lexicon.phones("one two"), *lexicon.phones("two")]


def test_the_dictionary_that_comes_with_pocketsphinx():
    pytest.importorskip("pocketsphinx")
    assert [PHONES[i - 1] for i in Lexicon().phones("hello")] == ["HH", "AH", "L", "OW"]


def test_what_was_said_has_its_place_after_all_distortion(corpus):
    heard = []

    def note(said, rng):
        heard.append(said)
        return []

    for factor in (1.0, 0.8):
        one = examples(corpus, [[(3, 0)]], speeds=(factor,))
        one.labels = note
        batch = one[0]
        (first, last), whole = heard.pop(), batch.lengths.item() / 100
        assert (first.text, last.text) == ("three", "one")
        assert first.start == 0
        assert first.end == pytest.approx(corpus.seconds(3) / factor, abs=0.01)
        assert 0.05 <= (last.start - first.end) * factor <= 0.4
        assert last.end - last.start == pytest.approx(corpus.seconds(0) / factor, abs=0.01)
        assert last.end == pytest.approx(whole, abs=0.03)
