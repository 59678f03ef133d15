"""Scores of a model over manifests."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tynda
from helpers import noise, write_manifest, write_wav
from tynda.errors import TyndaError
from tynda.heads.ctc import ngram
from tynda.heads.ctc.options import CTCOptions
from tynda.sound import audio
from whisper_peer import write_folder


@pytest.fixture
def manifests(tmp_path, tiny):
    """``right`` has two texts as the model decodes them; ``wrong`` has one with added words."""
    texts = []
    for i in range(3):
        path = write_wav(tmp_path / f"{i}.wav", noise(1 + i, seed=i))
        texts.append((path.name, tiny.transcribe(path).text))
    right = write_manifest(tmp_path / "right.jsonl", texts[:2])
    name, text = texts[2]
    wrong = write_manifest(
        tmp_path / "wrong.jsonl", [(name, f"{text} and two"), (name, f"Not, {text.upper()}!")]
    )
    return right, wrong


def test_scores_by_source_and_over_all(tiny, manifests, tmp_path):
    report = tynda.evaluate(tiny, manifests)
    assert list(report.sources) == ["right", "wrong"]
    right, wrong = report.sources.values()
    assert (right.wer, right.cer, right.utterances) == (0, 0, 2)
    assert (wrong.deletions, wrong.substitutions, wrong.insertions) == (3, 0, 0)
    assert wrong.wer == 3 / wrong.words
    assert wrong.char_errors == len(" and two") + len("not ")
    assert report.overall.wer == 3 / (right.words + wrong.words)
    assert report.overall.utterances == 4


def test_the_manifests_own_source_names_count(tiny, tmp_path):
    write_wav(tmp_path / "a.wav", noise(1))
    rows = [("a.wav", "one", {"source": "room"}), ("a.wav", "one two", {"source": "street"})]
    report = tynda.evaluate(tiny, [write_manifest(tmp_path / "m.jsonl", rows)])
    assert {name: s.words for name, s in report.sources.items()} == {"room": 1, "street": 2}


def test_the_worst_come_first_and_those_without_errors_not_at_all(tiny, manifests):
    report = tynda.evaluate(tiny, manifests)
    assert [r.reference.endswith("and two") for r in report.worst(10)] == [True, False]
    assert len(report.worst(1)) == 1
    assert report.worst(0) == []


def test_recordings_that_cannot_be_read_are_reported_and_not_scored(tiny, manifests, tmp_path):
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    rows = [("broken.wav", "lost words"), ("absent.wav", "more of them"), ("0.wav", "")]
    seen = []
    report = tynda.evaluate(
        tiny,
        [write_manifest(tmp_path / "bad.jsonl", rows), *manifests],
        on_progress=lambda done, total: seen.append((done, total)),
    )
    assert [path.name for path, _ in report.failed] == ["broken.wav", "absent.wav"]
    assert all(str(path) in why for path, why in report.failed)
    assert report.sources["bad"].utterances == 1
    assert seen == [(i, 7) for i in range(1, 8)]


def test_where_nothing_can_be_read_there_is_no_report(tiny, tmp_path):
    manifest = write_manifest(tmp_path / "m.jsonl", [("absent.wav", "one")])
    with pytest.raises(TyndaError, match=r"none of the 1 recordings.*absent\.wav"):
        tynda.evaluate(tiny, [manifest])
    with pytest.raises(TyndaError, match="none of the 0 recordings"):
        tynda.evaluate(tiny, [])


def test_a_bad_language_model_fails_the_evaluation_and_not_each_recording(tiny, manifests):
    with pytest.raises(TyndaError, match=r"^no language model file at absent\.arpa"):
        tynda.evaluate(tiny, manifests, CTCOptions(lm="absent.arpa"))


def test_the_report_as_json(tiny, manifests):
    report = tynda.evaluate(tiny, manifests)
    data = json.loads(json.dumps(report.to_dict(worst=1)))
    assert data["overall"]["wer"] == report.overall.wer > 0
    assert data["overall"]["cer"] == report.overall.cer > 0
    assert data["sources"]["right"]["wer"] == 0
    assert {"substitutions", "insertions", "deletions"} <= data["overall"].keys()
    assert data["model"] == "tiny"
    assert data["bytes"] == tiny.bytes
    assert len(data["worst"]) == 1
    assert data["worst"][0]["audio"].endswith("2.wav")
    assert data["failed"] == []


def test_the_real_time_factor_is_work_over_sound(tiny, manifests):
    report = tynda.evaluate(tiny, manifests)
    assert report.audio_seconds == pytest.approx(1 + 2 + 3 + 3)
    assert [r.seconds for r in report.results] == pytest.approx([1, 2, 3, 3])
    work = sum(r.processing for r in report.results)
    assert report.real_time_factor == pytest.approx(work / 9)
    assert 0 < report.real_time_factor < 10


def test_sound_of_no_length_has_no_real_time_factor(tiny, tmp_path):
    write_wav(tmp_path / "empty.wav", np.zeros(0, np.float32))
    report = tynda.evaluate(tiny, [write_manifest(tmp_path / "m.jsonl", [("empty.wav", "one")])])
    assert report.real_time_factor is None
    assert report.overall.deletions == 1


def test_loading_the_language_model_is_no_part_of_the_speed(tiny, manifests, tmp_path, monkeypatch):
    arpa = tmp_path / "my.arpa"
    arpa.write_text(ngram.train(["ab ba"], 2))
    loaded = []

    def noted(load):
        return lambda source: loaded.append(Path(source).name) or load(source)

    monkeypatch.setattr(ngram.LanguageModel, "load", noted(ngram.LanguageModel.load))
    monkeypatch.setattr("tynda.sound.audio.load", noted(tynda.sound.audio.load))
    tynda.evaluate(tiny, manifests, CTCOptions(lm=arpa, beam_size=2))
    assert loaded == ["my.arpa", "0.wav", "1.wav", "2.wav", "2.wav"]


def test_references_without_words_are_counted(tiny, tmp_path):
    write_wav(tmp_path / "a.wav", noise(1))
    rows = [("a.wav", text) for text in ("Привет, мир", "one", "", "мир")]
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    with pytest.warns(UserWarning, match="^2 of 4 references have no words that tiny") as caught:
        tynda.evaluate(tiny, manifest)
    assert len(caught) == 1


def test_a_model_by_its_name_or_file(tiny, tiny_file, manifests):
    expected = tynda.evaluate(tiny, manifests).overall
    assert tynda.evaluate(tiny_file, manifests).overall == expected
    assert tynda.evaluate(str(tiny_file), manifests).overall == expected
    with pytest.raises(TyndaError, match="no model 'nobody'"):
        tynda.evaluate("nobody", manifests)


def test_the_normaliser_may_be_named(tiny, tmp_path):
    path = write_wav(tmp_path / "a.wav", noise(1))
    hypothesis = tiny.transcribe(path).text
    made = write_manifest(tmp_path / "m.jsonl", [(path.name, f"{hypothesis}: 5")])
    letters, basic = (tynda.evaluate(tiny, made, normalizer=n) for n in (None, "basic"))
    assert letters.results[0].reference == f"{hypothesis} five"
    assert basic.results[0].reference == f"{hypothesis} 5"
    with pytest.raises(TyndaError, match="whisper-english"):
        tynda.evaluate(tiny, made, normalizer="none")


def test_parts_of_recordings(tiny, tmp_path):
    samples = noise(3)
    write_wav(tmp_path / "a.wav", samples)
    rows = [
        ("a.wav", "one", {"offset": 1, "duration": 1.5}),
        ("a.wav", "one", {"duration": 2.0}),
        ("a.wav", "one", {"duration": 2.95}),  # rounded: the whole recording
        ("a.wav", "one", {"offset": 1.0}),
        ("a.wav", "one", {"offset": 3, "duration": 1}),
        ("a.wav", "one", {}),
    ]
    report = tynda.evaluate(tiny, [write_manifest(tmp_path / "m.jsonl", rows)])
    assert [r.seconds for r in report.results] == [1.5, 2, 3, 2, 3]
    whole = audio.load(tmp_path / "a.wav")
    assert report.results[0].hypothesis == tiny.transcribe(whole[16_000:40_000]).text
    assert report.results[1].hypothesis == tiny.transcribe(whole[:32_000]).text
    ((_, why),) = report.failed
    assert "lasts 3 s, and the manifest's offset is 3 s" in why


def test_the_language_of_an_utterance(tmp_path, monkeypatch):
    write_folder(tmp_path / "model", frames=1500)
    model = tynda.load(tmp_path / "model")
    write_wav(tmp_path / "a.wav", noise(1))
    write_wav(tmp_path / "b.wav", noise(1))
    rows = [
        ("a.wav", "They've 3 cats.", {"language": "en-US"}),
        ("b.wav", "They've 3 cats.", {"language": "uk"}),
        ("a.wav", "They've 3 cats.", {"language": "xx"}),
    ]
    given = []
    transcribe = type(model).transcribe

    def spy(self, samples, options):
        given.append(options.language)
        return transcribe(self, samples, options)

    monkeypatch.setattr(type(model), "transcribe", spy)
    options = model.options(temperature=(0.0,), max_new_tokens=3, window="fit")
    manifest = write_manifest(tmp_path / "m.jsonl", rows)
    results = tynda.evaluate(model, manifest, options).results
    assert given == ["en", "uk", None]
    assert [r.reference for r in results] == ["they've three cats", *2 * ["they've 3 cats"]]
    del given[:]
    tynda.evaluate(model, manifest, replace(options, language="kk"))
    assert given == ["kk"] * 3
