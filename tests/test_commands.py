"""Grammars, their graphs, and the answers: only sentences of a grammar are commands."""

import itertools
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import tynda
from helpers import LoudDetector
from tynda.cli import main
from tynda.commands import session as sessions
from tynda.commands import tokens as token_graphs
from tynda.commands.calibrate import calibrate, confidences
from tynda.commands.feedback import confusable
from tynda.commands.graph import WordGraph
from tynda.commands.read import read
from tynda.commands.recognizer import CommandRecognizer
from tynda.commands.session import CommandSession
from tynda.commands.settings import CommandSettings
from tynda.commands.templates import Choice, Grammar, Sentence, Series, Slot, Text
from tynda.commands.tokens import compile_tokens
from tynda.errors import TyndaError
from tynda.heads.base import CommandDecoder, CommandMatch
from tynda.heads.ctc.commands import Paths
from tynda.sound import audio
from tynda.text.normalize import english_letters
from tynda.text.tokenizer import ENGLISH

pytest.importorskip("hassil")

RATE = audio.SAMPLE_RATE
DEMO = Path(__file__).parents[1] / "demo"

HOME = """
# Lines that begin with a number sign are comments.
{room} = kitchen | [the] (living|sitting) room
turn (on|off) [the] light[s] [in {room}]
set {room:place} to {0..30:level}[%| percent]
now;stop
call Dr. Smith at 10:30
"""
INTENTS = """
language: en
intents:
  HassTurnOn:
    data:
      - sentences:
          - "<turn> on {name}"
          - "lights on [in <where>]"
        slots: {domain: light}
      - sentences: ["<turn> {name} on"]
  HassSet:
    data:
      - sentences: ["set {brightness:value} in {name}"]
lists:
  name:
    values:
      - in: "[the] kitchen light[s]"
        out: light.kitchen
      - heater
  brightness:
    range: {from: 0, to: 100, step: 5}
expansion_rules:
  turn: "(turn|switch)"
  where: "[the] (kitchen|bath)"
"""


def graph_of(tmp_path, text, suffix=".txt"):
    path = tmp_path / f"grammar{suffix}"
    path.write_text(text, "utf-8")
    return WordGraph(read(path), english_letters)


def simple(*texts):
    sentences = tuple(Sentence(Text(text), text) for text in texts)
    return WordGraph(Grammar(sentences), english_letters)


def letters(arc, begins):
    return [ENGLISH.encode(("" if begins else " ") + " ".join(arc.words))]


def accepts(graph, tokens):
    state = 0
    for token in tokens:
        state = graph.arcs[state].get(token)
        if state is None:
            return False
    return state in graph.ends


@pytest.mark.parametrize(
    ("text", "slots"),
    [
        ("turn on the lights", {}),
        ("Turn off light in the sitting room.", {"room": "the sitting room"}),
        ("turn on the light in living room", {"room": "living room"}),
        ("set kitchen to twenty one percent", {"place": "kitchen", "level": 21}),
        ("set kitchen to 21%", {"place": "kitchen", "level": 21}),
        ("set kitchen to zero", {"place": "kitchen", "level": 0}),
        ("stop now", {}),
        ("now stop", {}),
        ("call doctor smith at ten thirty", {}),
    ],
)
def test_a_list_has_optional_words_alternatives_slots_and_numbers(tmp_path, text, slots):
    graph = graph_of(tmp_path, HOME)
    assert graph.meaning(text).slots == slots
    assert graph.meaning(text).intent is None


def test_a_list_may_name_one_that_is_defined_later(tmp_path):
    graph = graph_of(tmp_path, "{place} = (big|small) {room}\n{room} = hall|attic\nlight {place}")
    assert graph.meaning("light small attic").slots == {"place": "small attic"}


@pytest.mark.parametrize(
    "text",
    ["turn on", "turn on the lights in", "set kitchen to thirty one", "stop", "", "now now stop"],
)
def test_other_texts_are_no_sentences(tmp_path, text):
    graph = graph_of(tmp_path, HOME)
    assert graph.meaning(text) is None
    assert graph.goes_on(text) == (text not in ("set kitchen to thirty one", "now now stop")) or (
        text == "stop" and graph.goes_on(text)
    )


def test_intents_of_home_assistant_are_read(tmp_path):
    graph = graph_of(tmp_path, INTENTS, ".yaml")
    on = graph.meaning("switch on the kitchen lights")
    assert (on.intent, on.slots) == ("HassTurnOn", {"domain": "light", "name": "light.kitchen"})
    later = graph.meaning("turn heater on")
    assert (later.intent, later.slots) == ("HassTurnOn", {"name": "heater"})
    assert graph.meaning("lights on in bath").slots == {"domain": "light"}
    level = graph.meaning("set 35 in heater")
    assert (level.intent, level.slots) == ("HassSet", {"value": 35, "name": "heater"})
    assert graph.meaning("set thirty six in heater") is None


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("{sentences: yes}", "sentences of A are not a list of texts"),
        ("{sentences: go}", "sentences of A are not a list of texts"),
        ("{sentences: [1]}", "sentences of A are not a list of texts"),
        ("{sentences: {go: 1}}", "sentences of A are not a list of texts"),
        ("{sentences: [go], slots: [1]}", "slots of A are not names with values"),
    ],
)
def test_blocks_of_another_form(tmp_path, block, words):
    text = f"language: en\nintents:\n  A:\n    data:\n      - {block}\n"
    with pytest.raises(TyndaError, match=words):
        graph_of(tmp_path, text, ".yaml")


def test_the_first_of_two_meanings_counts():
    sentences = (Sentence(Text("stop"), "stop", "First"), Sentence(Text("stop"), "stop", "Second"))
    assert WordGraph(Grammar(sentences), english_letters).meaning("stop").intent == "First"


WORDS = st.sampled_from(["on", "off", "light", "lights", "two", "20", "a", "kitchen"])


def templates(depth=3):
    """Draw a template with the list of what may be spoken, as pairs of text and slots."""
    word = WORDS.map(lambda w: (Text(f" {w} "), [(f" {w} ", {})]))
    glued = st.sampled_from(["s", "ly"]).map(lambda w: (Text(w), [(w, {})]))
    if not depth:
        return word | glued

    def series(parts):
        spoken = itertools.product(*(said for _, said in parts))
        joined = [
            ("".join(t for t, _ in each), {k: v for _, s in each for k, v in s.items()})
            for each in spoken
        ]
        return Series(tuple(template for template, _ in parts)), joined

    def choice(parts):
        return Choice(tuple(t for t, _ in parts)), [x for _, said in parts for x in said]

    def slot(drawn):
        (template, said), name = drawn
        return Slot(name, name.upper(), template), [(t, {name: name.upper(), **s}) for t, s in said]

    inner = templates(depth - 1)
    several = st.lists(inner, min_size=1, max_size=3)
    return (
        word
        | several.map(series)
        | several.map(choice)
        | st.tuples(inner, st.sampled_from("xyz")).map(slot)
    )


@given(templates())
@settings(max_examples=150, deadline=None)
def test_every_expansion_is_a_path_with_its_slots(drawn):
    template, spoken = drawn
    sentence = Sentence(Series((Text("go"), Text(" "), template)), "go ...", "Go")
    graph = WordGraph(Grammar((sentence,)), english_letters)
    compiled = compile_tokens(graph, letters)
    expected = {}
    for text, slots in spoken:
        words = " ".join(w for part in f"go {text}".split() for w in english_letters(part).split())
        expected.setdefault(words, []).append(slots)
    for words, slots in expected.items():
        found = graph.meaning(words)
        assert found.words == words
        assert found.intent == "Go"
        assert dict(found.slots) in slots
        assert accepts(compiled, ENGLISH.encode(words))
        for cut in range(1, len(words)):
            assert accepts(compiled, ENGLISH.encode(words[:cut])) == (words[:cut] in expected)
    assert set(graph.sentences(10_000)) == set(expected)


@given(st.lists(st.text("abc", min_size=1, max_size=6), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_graph_is_as_small_as_that_of_openfst(texts):
    kaldifst = pytest.importorskip("kaldifst")
    fst = kaldifst.StdVectorFst()
    fst.add_state()
    fst.start = 0
    for text in texts:
        state = 0
        for letter in ENGLISH.encode(text):
            after = fst.add_state()
            fst.add_arc(state, kaldifst.StdArc(letter, letter, 0.0, after))
            state = after
        fst.set_final(state, 0.0)
    kaldifst.determinize_star(fst)
    kaldifst.minimize(fst)
    compiled = compile_tokens(simple(*texts), letters)
    assert len(compiled.arcs) == fst.num_states


def collapse(path):
    return tuple(token for token, _ in itertools.groupby(path) if token)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_the_best_path_is_that_of_all_paths(data):
    texts = data.draw(st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4))
    frames = data.draw(st.integers(0, 5))
    seed = data.draw(st.integers(0, 1000))
    numbers = {"a": 1, "b": 2}
    compiled = compile_tokens(
        simple(*texts), lambda arc, begins: [[numbers[c] for c in "".join(arc.words)]]
    )
    logits = np.random.default_rng(seed).normal(size=(frames, 3)) * 3
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)
    wanted = {tuple(numbers[c] for c in text) for text in texts}
    paths = itertools.product(range(3), repeat=frames)
    scores = [
        (sum(log_probs[t, token] for t, token in enumerate(path)), collapse(path))
        for path in paths
        if collapse(path) in wanted
    ]
    found = Paths(compiled, 0).best(log_probs)
    if not scores:
        assert found is None
        return
    score, tokens = max(scores)
    assert found.score == pytest.approx(score, rel=1e-5)
    assert tuple(found.tokens) == tokens


HOSTILE = {
    "more than 16 brackets": "go " + "(" * 40 + "a" + ")" * 40,
    "cannot be read": "go [x",
    "close each bracket": "go []",
    "more than 2,000 characters": "go" + " a" * 2000,
    "all of it can be optional": "[a] [b]",
    "no sentence": "# nothing\n\n",
    "more than 10,000 numbers": "set {0..99999999999:x}",
    "no list {foo}": "set {foo}",
    "no rule <foo>": "set <foo>",
    "contains itself": "{a} = x {b}\n{b} = {a}\ngo {a}",
    "the range 10..0 is empty": "set {10..0:x}",
    "more than 10,000 texts": "{a} = " + " ".join(["(a|b|c|d|e|f|g|h)"] * 6) + "\ngo {a}",
    "places for them": "go " + "[x]" * 60,
    "more than 100 letters": "a" * 1500,
    "more than 4 parts in any order": "go (a;b;c;d;e)",
}
LINE = 'language: en\nintents: {A: {data: [{sentences: ["go <a>"]}]}}\n'
HOSTILE_YAML = {
    "contains itself": LINE + 'expansion_rules: {a: "x <b>", b: "<a>"}',
    "places for them": LINE
    + "expansion_rules: {a: <r0>, "
    + ", ".join(f"r{i}: <r{i + 1}> <r{i + 1}>" for i in range(30))
    + ", r30: x}",
    "more than 100,000 values": "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\n"
    + "\n".join(
        f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]" for i in range(9)
    ),
    "values: shorten": "&a [*a]",
    "not YAML": "[" * 5000,
    "grammar has no intents": "",
    "has no intents": "- go",
    "no intents: write": "language: en\nintents:\n",
    "start cannot be greater": 'language: en\nintents: {A: {data: [{sentences: ["go {x}"]}]}}\n'
    "lists: {x: {range: {from: 3, to: 1}}}",
    "could not determine": "!!python/object/apply:os.system [ls]",
    "the form of Home Assistant": "language: en\nintents: {A: null}",
    "in quotes": 'language: en\nintents: {A: {data: [{sentences: ["go {x}"]}]}}\n'
    "lists: {x: {values: [on, off]}}",
    "is a wildcard": 'language: en\nintents: {A: {data: [{sentences: ["go {x}"]}]}}\n'
    "lists: {x: {wildcard: true}}",
}


@pytest.mark.parametrize(
    ("text", "message", "suffix"),
    [
        *((text, message, ".txt") for message, text in HOSTILE.items()),
        *((text, message, ".yaml") for message, text in HOSTILE_YAML.items()),
    ],
)
def test_a_grammar_that_is_hostile_or_wrong_is_one_line(tmp_path, text, message, suffix):
    with pytest.raises(TyndaError, match=message.replace("{", r"\{")) as refused:
        compile_tokens(graph_of(tmp_path, text, suffix), letters)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500


def test_sets_of_states_are_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(token_graphs, "_MAX_WORK", 10_000)
    text = "\n".join("[(a|b)] " * 14 + "a" + " (a|b)" * 14 + f" x{'y' * i}" for i in range(5))
    with pytest.raises(TyndaError, match="states in the model's tokens"):
        compile_tokens(graph_of(tmp_path, text), letters)


def test_a_grammar_that_is_no_text_or_not_there_is_one_line(tmp_path):
    path = tmp_path / "a.txt"
    with pytest.raises(TyndaError, match="cannot read the grammar"):
        read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(TyndaError, match="UTF-8"):
        read(path)
    path.write_bytes(b"a " * 600_000)
    with pytest.raises(TyndaError, match="more than 1,000,000 bytes"):
        read(path)


def test_a_missing_library_is_one_line(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("stop")
    code = (
        "import sys; sys.modules['hassil'] = None\n"
        "sys.argv[1:] = ['commands', sys.argv[1], '--check']\n"
        "from tynda.__main__ import main; main()"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: a grammar needs hassil: ")
    assert done.stderr.count("\n") == 1


def test_feedback_lists_what_sounds_alike_and_what_cannot_be_spelled(tmp_path):
    sentences = [("turn it on", "On"), ("turn it off", "Off"), ("turn it of", "Off"), ("x y", "X")]
    graph = WordGraph(
        Grammar(tuple(Sentence(Text(text), text, intent) for text, intent in sentences)),
        english_letters,
    )
    found = [(pair.first, pair.second, pair.edits) for pair in confusable(graph)]
    assert found == [("turn it on", "turn it of", 1), ("turn it on", "turn it off", 2)]
    whisper, small = (tynda.load(name).head for name in ("whisper-tiny.en", "digits-en"))
    assert "'xqzjkv'" in whisper.spelling_doubt("xqzjkv")
    assert whisper.spelling_doubt("kitchen") is None
    assert "cannot spell" in small.spelling_doubt("ж")
    assert small.spelling_doubt("kitchen") is None


class Loudness(CommandDecoder):
    """Finds "stop" in short sounds and "stop now" in longer ones, as sure as they are loud."""

    max_seconds, threshold = 3.0, 0.5

    def find(self, samples):
        loud = np.abs(samples) > 0.01
        text = "stop now" if loud.sum() > RATE else "stop"
        return CommandMatch(text, float(np.abs(samples).max()))


def listener(*texts, **given):
    return CommandRecognizer(simple(*texts), Loudness(), CommandSettings(**given))


def sound(*parts):
    """Sounds of seconds and levels."""
    return np.concatenate([np.full(round(s * RATE), level, np.float32) for s, level in parts])


def answers(recognizer, samples, sizes=(1600,)):
    session, found, at = CommandSession(recognizer), [], 0
    for size in itertools.cycle(sizes):
        if at >= len(samples):
            return found + session.finish()
        found += session.feed(samples[at : at + size])
        at += size


@pytest.fixture
def simple_detector(monkeypatch):
    monkeypatch.setattr(sessions, "Detector", LoudDetector)


@pytest.mark.usefixtures("simple_detector")
def test_a_command_is_answered_after_a_pause_unless_a_longer_one_may_follow():
    samples = sound((0.5, 0), (0.5, 0.9), (1.0, 0))
    (early,) = answers(listener("stop"), samples)
    (late,) = answers(listener("stop", "stop now"), samples)
    assert early.sentence == late.sentence == "stop"
    assert 1.05 <= early.end <= 1.15
    assert 1.5 <= late.end <= 1.6
    (longer,) = answers(listener("stop", "stop now"), sound((1.2, 0.9), (1, 0)))
    assert longer.sentence == "stop now"


@pytest.mark.usefixtures("simple_detector")
def test_a_pause_needs_a_certain_command():
    """A decoder that may only write whole sentences completes what is still being said."""
    (sure,) = answers(listener("stop"), sound((0.5, 0.76), (1, 0)))
    (doubtful,) = answers(listener("stop"), sound((0.5, 0.74), (1, 0)))
    assert sure.sentence == doubtful.sentence == "stop"
    assert sure.end < 0.7
    assert doubtful.end > 0.9


@pytest.mark.usefixtures("simple_detector")
def test_speech_shortly_before_a_command_refuses_it():
    talk, word = (0.5, 0.3), (0.5, 0.9)
    for silence, is_command in ((0.7, False), (0.9, True)):
        talking = sound((1, 0), talk, (silence, 0), word, (1, 0))
        assert [a.is_command for a in answers(listener("stop"), talking)] == [False, is_command]
    talking = sound((1, 0), talk, (0.7, 0), word, (0.7, 0), word, (0.9, 0), word, (1, 0))
    found = answers(listener("stop"), talking)
    assert [a.is_command for a in found] == [False, False, False, True]
    assert [a.confidence for a in found[1:3]] == [0, 0]
    assert [a.is_command for a in answers(listener("stop", apart=0), talking)] == [False] + 3 * [
        True
    ]
    # A command, or a noise that is too short for speech, does not refuse the next one.
    commands = sound((1, 0), word, (0.6, 0), word, (0.6, 0), (0.05, 0.9), (0.6, 0), word, (1, 0))
    assert [a.is_command for a in answers(listener("stop"), commands)] == 3 * [True]


@pytest.mark.usefixtures("simple_detector")
def test_what_is_quiet_long_or_too_short_is_no_command():
    recognizer = listener("stop")
    (quiet,) = answers(recognizer, sound((0.5, 0.3), (1, 0)))
    assert (quiet.is_command, quiet.confidence) == (False, pytest.approx(0.3))
    (long,) = answers(recognizer, sound((9, 0.9), (1, 0)))
    assert not long.is_command
    assert answers(recognizer, sound((1, 0), (0.05, 0.9), (1, 0))) == []
    assert answers(recognizer, np.zeros(0, np.float32)) == []


@pytest.mark.usefixtures("simple_detector")
@given(
    st.lists(st.tuples(st.sampled_from([0.05, 0.3, 0.7, 1.3]), st.sampled_from([0, 0.3, 0.9]))),
    st.lists(st.sampled_from([1, 100, 512, 5000, 40_000]), min_size=1),
)
@settings(max_examples=30, deadline=None)
def test_the_sizes_of_blocks_change_nothing(parts, sizes):
    samples = sound(*parts, (0.2, 0))
    recognizer = listener("stop", "stop now")
    sizes = [*sizes, 2000]
    assert answers(recognizer, samples, sizes) == answers(recognizer, samples, [len(samples)])


@pytest.mark.usefixtures("simple_detector")
def test_the_threshold_is_calibrated_to_a_rate():
    recognizer = listener("stop")
    levels = [0.2, 0.4, 0.6, 0.8]
    recording = np.concatenate([sound((0.5, level), (1.3, 0)) for level in levels])
    found, seconds = confidences(recognizer, [recording])
    assert found == pytest.approx(levels)
    assert seconds == pytest.approx(7.2)
    hours = 7.2 / 3600
    for allowed, threshold in ((0, 0.8), (1, 0.6), (3, 0.2), (4, 0.0)):
        result = calibrate(recognizer, [[recording]], (allowed + 0.5) / hours)
        assert result.false_accepts == allowed
        assert result.threshold == pytest.approx(threshold)
        assert result.hours == pytest.approx(hours)
    with pytest.raises(TyndaError, match="empty"):
        calibrate(recognizer, [], 1)


NUMBERS = """
{d} = zero|one|two|three|four|five|six|seven|eight|nine
{d:first} {d:second} {d:third} {d:fourth}
"""


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text(NUMBERS)
    return path


@pytest.mark.parametrize("model", ["digits-en", "whisper-tiny.en"])
def test_a_spoken_command_is_answered_and_other_speech_refused(numbers, model):
    recordings = [str(DEMO / name) for name in ("020070039.opus", "000030012.opus")]
    arguments = ["commands", str(numbers), *recordings, "--model", model, "--format", "jsonl"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    said, other = map(json.loads, result.stdout.splitlines())
    assert said["command"]
    assert said["sentence"] == "six eight zero two"
    assert said["slots"] == {"first": "six", "second": "eight", "third": "zero", "fourth": "two"}
    assert said["confidence"] > 0.5
    assert not other["command"]
    assert other["sentence"] is None


def test_raw_audio_is_answered_while_noise_is_not(numbers):
    command = [sys.executable, "-m", "tynda", "commands", str(numbers), "-"]
    samples = audio.load(DEMO / "020070039.opus")
    noise = np.random.default_rng(0).normal(size=2 * RATE) * 0.05
    data = (np.concatenate([noise, samples, np.zeros(RATE), noise]) * 32767).astype("<i2")
    done = subprocess.run(
        [*command, "--model", "digits-en"], input=data.tobytes(), capture_output=True, check=True
    )
    (line,) = [x for x in done.stdout.decode().splitlines() if "not a command" not in x]
    confidence, sentence, *slots = line.split("\t")
    assert float(confidence) > 0.5
    assert sentence == "six eight zero two"
    assert slots == ["first=six", "second=eight", "third=zero", "fourth=two"]


def test_silence_and_noise_are_no_commands(numbers):
    obeyed = tynda.load("digits-en").commands(numbers)
    rng = np.random.default_rng(1)
    tone = np.sin(np.arange(RATE) / 10) * 0.1
    for samples in (np.zeros(RATE), rng.normal(size=RATE) * 0.1, tone, np.zeros(0), np.zeros(9)):
        assert not obeyed.recognize(samples.astype(np.float32)).is_command


def test_a_wake_phrase_is_a_grammar_of_one_sentence(tmp_path):
    path = tmp_path / "wake.txt"
    path.write_text("mark is going to see elephant")
    obeyed = tynda.load().commands(path, threshold=0.6)
    answer = obeyed.recognize(audio.load(DEMO / "000030012.opus"))
    assert (answer.sentence, answer.intent) == ("mark is going to see elephant", None)
    assert not obeyed.recognize(audio.load(DEMO / "014040096.opus")).is_command


@pytest.mark.parametrize("name", ["000030012", "014040096", "028920012", "arctic_a0058_1592747187"])
@pytest.mark.parametrize("model", ["whisper-tiny.en", "sentences-en"])
def test_a_sentence_is_not_one_of_the_words_of_a_grammar(tmp_path, model, name):
    path = tmp_path / "words.txt"
    path.write_text("yes\nno\none\nzero\nwow\nup\noff\n")
    answer = tynda.load(model).commands(path).recognize(audio.load(DEMO / f"{name}.opus"))
    assert (answer.sentence, answer.confidence < 0.15) == (None, True)


def test_the_command_line_checks_and_calibrates(numbers, tmp_path):
    result = CliRunner().invoke(main, ["commands", str(numbers), "--check", "--model", "digits-en"])
    assert result.exit_code == 0
    assert "alike: 'zero " in result.stdout
    manifest = tmp_path / "speech.jsonl"
    path = json.dumps(str(DEMO / "000030012.opus"))
    manifest.write_text(f'{{"audio_filepath": {path}, "text": ""}}\n')
    given = ["commands", str(numbers), "--model", "digits-en", "--calibrate", str(manifest)]
    result = CliRunner().invoke(main, given)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("--threshold 0.")
    assert ": 0 false accepts in 0.00 hours" in result.stdout


def test_what_the_command_line_cannot_do_is_one_line(tmp_path, numbers):
    both = CliRunner().invoke(main, ["commands", str(numbers), "-", "a.wav"])
    assert both.exit_code == 2
    missing = CliRunner().invoke(main, ["commands", str(tmp_path / "no.txt"), "a.wav"])
    assert missing.exit_code == 1
    assert missing.stderr.startswith("error: ")
    lost = ["commands", str(numbers), str(tmp_path / "no.wav"), "--model", "digits-en"]
    result = CliRunner().invoke(main, lost)
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1


def test_confidences_are_between_zero_and_one():
    with pytest.raises(TyndaError, match="threshold"):
        CommandSettings(threshold=math.nan)


def test_raw_audio_of_a_closed_standard_input_is_one_line(monkeypatch, tmp_path):
    grammar = tmp_path / "g.txt"
    grammar.write_text("one\n")
    monkeypatch.setattr("tynda.sound.sources.sys", SimpleNamespace(stdin=None))
    arguments = ["commands", str(grammar), "-", "--model", "digits-en"]
    result = CliRunner().invoke(main, arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "error: standard input is closed: give a file, or a pipe\n"
