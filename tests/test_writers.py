import json
import re
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.errors import TyndaError
from tynda.transcript import Segment, Transcript, Word
from tynda.writers import FORMATS, write

HELLO = Transcript(
    "Hello there. General Kenobi!",
    [
        Segment(0.0, 1.5, "Hello there.", [Word("Hello", 0, 0.7, 0.99), Word("there", 0.8, 1.5)]),
        Segment(2.25, 4.0, "General Kenobi!", confidence=0.5, alternatives=["general can obey"]),
    ],
    "en",
    4.5,
)


def spoken(text: str, seconds: float = 0.25) -> Segment:
    words = [Word(w, i * seconds, (i + 1) * seconds) for i, w in enumerate(text.split())]
    return Segment(0.0, len(words) * seconds, text, words)


def test_txt() -> None:
    assert write(HELLO, "txt") == "Hello there.\nGeneral Kenobi!\n"


def test_tsv() -> None:
    assert write(HELLO, "tsv") == (
        "start\tend\ttext\n0\t1500\tHello there.\n2250\t4000\tGeneral Kenobi!\n"
    )
    odd = Transcript("", [Segment(0, 1, " a\tb\nc\r\n")])
    assert write(odd, "tsv") == "start\tend\ttext\n0\t1000\ta b c\n"


def test_srt() -> None:
    assert write(HELLO, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nHello there.\n\n"
        "2\n00:00:02,250 --> 00:00:04,000\nGeneral Kenobi!\n"
    )


def test_vtt() -> None:
    assert write(HELLO, "vtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\nHello there.\n\n"
        "00:00:02.250 --> 00:00:04.000\nGeneral Kenobi!\n"
    )


def test_json_keeps_everything() -> None:
    text = write(Transcript("тыңда", HELLO.segments, "kk", 4.5), "json")
    assert "тыңда" in text
    parsed = json.loads(text)
    assert (parsed["language"], parsed["duration"]) == ("kk", 4.5)
    first, second = parsed["segments"]
    assert first["words"][0] == {"text": "Hello", "start": 0, "end": 0.7, "confidence": 0.99}
    assert first["words"][1]["confidence"] is None
    assert second["alternatives"] == ["general can obey"]
    assert (second["confidence"], second["words"]) == (0.5, [])


@pytest.mark.parametrize(
    ("format", "expected"),
    [("txt", ""), ("srt", ""), ("vtt", "WEBVTT\n"), ("tsv", "start\tend\ttext\n")],
)
def test_nothing_said(format: str, expected: str) -> None:
    assert write(Transcript(""), format) == expected
    assert write(Transcript(" ", [Segment(0, 1, " \n")]), format) == expected


def test_nothing_said_in_json() -> None:
    assert json.loads(write(Transcript(""), "json")) == {
        "text": "", "language": None, "language_probability": None, "duration": None,
        "segments": [],
    }  # fmt: skip


def test_segments_are_numbered_in_json():
    found = Transcript("a b", [Segment(0, 1, "a"), Segment(1, 2, "b")], "en", 2.0, 0.98765)
    assert [s["id"] for s in found.to_dict()["segments"]] == [0, 1]
    assert found.to_dict()["language_probability"] == 0.9877


def test_arrows_and_markup_are_escaped() -> None:
    odd = Transcript("", [Segment(0, 1, "a <b> & c ---> d --> e")])
    vtt = write(odd, "vtt")
    assert "a &lt;b&gt; &amp; c ---&gt; d --&gt; e" in vtt
    assert vtt.count("-->") == 1
    assert "a <b> & c -> d -> e" in write(odd, "srt")


@pytest.mark.parametrize(
    ("seconds", "stamp"),
    [
        (0, "00:00:00,000"),
        (59.9996, "00:01:00,000"),
        (3599.9999, "01:00:00,000"),
        (3723.004, "01:02:03,004"),
        (360_000, "100:00:00,000"),
    ],
)
def test_time_stamps(seconds: float, stamp: str) -> None:
    srt = write(Transcript("", [Segment(seconds, seconds + 5, "a")]), "srt")
    assert srt.startswith(f"1\n{stamp} --> ")


def test_a_long_segment_becomes_readable_captions() -> None:
    text = (
        "there's iron they say in all our blood and a grain or two perhaps is good but his he "
        "makes me harshly feel has got a little too much of steel, anon."
    )
    assert write(Transcript(text, [spoken(text)]), "srt") == (
        "1\n00:00:00,000 --> 00:00:04,000\n"
        "there's iron they say in all our blood\nand a grain or two perhaps is good\n\n"
        "2\n00:00:04,000 --> 00:00:08,000\n"
        "but his he makes me harshly feel has\ngot a little too much of steel, anon.\n"
    )


def test_captions_go_in_pauses_and_after_seven_seconds() -> None:
    slow = spoken("one two three four five", seconds=3.0)
    assert [end - start for start, end, _ in parse(write(Transcript("", [slow]), "srt"))] == [
        6000, 3000, 6000
    ]  # fmt: skip
    paused = Segment(0, 6, "wait for it", [Word("wait", 0, 1), Word("for", 1, 2), Word("it", 5, 6)])
    assert [text for _, _, text in parse(write(Transcript("", [paused]), "vtt"))] == [
        "wait for", "it"
    ]  # fmt: skip


def test_captions_keep_the_punctuation_and_spacing_of_the_segment() -> None:
    words = [Word(c, i, i + 1) for i, c in enumerate("今日は良い天気")]
    captions = parse(write(Transcript("", [Segment(0, 7.5, "「今日は、良い天気」", words)]), "srt"))
    assert "".join(text for _, _, text in captions) == "「今日は、良い天気」"
    other = Segment(0, 1, "2 dogs", [Word("two", 0, 0.5), Word(" dogs ", 0.5, 1)])
    assert parse(write(Transcript("", [other]), "srt")) == [(0, 1000, "two dogs")]


def test_captions_are_shown_long_enough_to_be_read() -> None:
    said = [
        Segment(0.0, 0.2, "Yes."),
        Segment(3.0, 3.2, "No."),
        Segment(3.6, 4.0, "Perhaps it is the end of it, who knows that, and who would tell it?"),
        Segment(8.5, 8.6, "Well!"),
        Segment(9.1, 9.2, "Go now! " + "And so on, " * 6 + "And on,"),
        Segment(19.8, 19.9, "Stop."),
    ]
    cues = parse(write(Transcript("", said, duration=20.0), "srt"))
    assert [cue[:2] for cue in cues] == [
        (0, 700), (3000, 4000), (8500, 9100), (9100, 9800), (19_800, 20_000)
    ]  # fmt: skip
    assert cues[1][2].startswith("No. Perhaps")
    assert parse(write(Transcript("", said), "vtt"))[-1][:2] == (19_800, 19_900)
    assert "3000\t3200\tNo." in write(Transcript("", said, duration=20.0), "tsv")


def test_captions_do_not_overlap() -> None:
    said = [
        Segment(0, 5, "One."),
        Segment(4, 4.1, "Two."),
        Segment(4, 9, "Three."),
        Segment(4, 9, "Four."),
    ]
    cues = parse(write(Transcript("", said), "srt"))
    assert [cue[0] for cue in cues] == [0, 4000]
    assert [cue[2] for cue in cues] == ["One.", "Two. Three. Four."]
    assert cues[0][1] == 4000


def test_captions_do_not_leave_a_word_alone() -> None:
    text = "And so my fellow Americans, ask not what your country can do for you now and then,"
    cues = parse(write(Transcript("", [spoken(text + " we say")]), "srt"))
    assert min(len(cue[2].split()) for cue in cues) >= 5
    said = [Segment(0, 3, "ask what you can do for"), Segment(3.1, 3.6, "your country.")]
    (cue,) = parse(write(Transcript("", said), "srt"))
    assert cue == (0, 3600, "ask what you can do for your country.")
    apart = [said[0], Segment(4, 4.5, "your country.")]
    assert len(parse(write(Transcript("", apart), "srt"))) == 2
    ended = [Segment(0, 3, "She went."), Segment(3.1, 4, "Did you?")]
    assert len(parse(write(Transcript("", ended), "srt"))) == 2


def test_captions_end_with_a_clause_where_they_can() -> None:
    text = (
        "And so my fellow Americans, ask not what your country can do for you, "
        "ask what you can do for your country."
    )
    assert [cue[2] for cue in parse(write(Transcript("", [spoken(text)]), "srt"))] == [
        "And so my fellow Americans, ask not what your country can do for you,",
        "ask what you can do for your country.",
    ]


def test_a_long_segment_without_word_times_is_divided_by_its_characters() -> None:
    text = " ".join(f"word{i:02}" for i in range(30))
    for segment in (Segment(10, 30, text), Segment(10, 30, "言" * 200)):
        cues = parse(write(Transcript("", [segment]), "srt"))
        assert len(cues) == 3
        assert (cues[0][0], cues[-1][1]) == (10_000, 30_000)
        assert all(a[1] == b[0] for a, b in pairwise(cues))
        assert all(3000 < end - start < 8500 for start, end, _ in cues)
    for block in write(Transcript("", [segment]), "srt").split("\n\n"):
        lines = block.strip().split("\n")[2:]
        assert len(lines) <= 2
        assert max(map(len, lines)) <= 42


def parse(subtitles: str) -> list[tuple[int, int, str]]:
    """Return cues of SRT or WebVTT as (start, end in ms, text)."""
    stamp = r"(\d{2,}):([0-5]\d):([0-5]\d)[,.](\d{3})"
    cues = []
    for block in subtitles.removeprefix("WEBVTT\n").strip("\n").split("\n\n"):
        if match := re.fullmatch(rf"(?:\d+\n)?{stamp} --> {stamp}\n(.+)", block, re.DOTALL):
            a, b, c, d, e, f, g, h = (int(x) for x in match.groups()[:8])
            start, end = ((a * 60 + b) * 60 + c) * 1000 + d, ((e * 60 + f) * 60 + g) * 1000 + h
            cues.append((start, end, " ".join(match[9].split("\n"))))
        else:
            assert not block
    return cues


tokens = st.text(st.characters(codec="utf-8", exclude_categories=["Z", "C"]), min_size=1)
seconds = st.floats(-1, 20_000)
words = st.builds(Word, tokens, seconds, seconds)
segments = st.lists(words, max_size=30).flatmap(
    lambda said: st.builds(
        Segment,
        seconds,
        seconds,
        st.just(" ".join(word.text for word in said)),
        st.sampled_from([said, []]),
    )
)


@settings(max_examples=150, deadline=None)
@given(st.lists(segments, max_size=4), st.sampled_from(["srt", "vtt"]))
def test_subtitles_keep_the_text_in_the_order_of_time(said: list[Segment], format: str) -> None:
    text = " ".join(segment.text for segment in said if segment.text)
    cues = parse(write(Transcript(text, said), format))
    kept = " ".join(cue[2] for cue in cues)
    if format == "vtt":
        kept = kept.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    else:
        text = re.sub("--+>", "->", text)
    # A word longer than a line is broken: compare without spaces.
    assert kept.replace(" ", "") == text.replace(" ", "")
    assert all(start < end for start, end, _ in cues)
    assert all(before[1] <= after[0] for before, after in pairwise(cues))


@pytest.mark.parametrize("format", FORMATS)
def test_save_chooses_by_suffix(tmp_path: Path, format: str) -> None:
    path = tmp_path / f"talk.{format.upper()}"
    path.write_text("old")
    HELLO.save(path)
    assert path.read_text(encoding="utf-8") == write(HELLO, format)
    assert list(tmp_path.iterdir()) == [path]


def test_save_refuses_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(TyndaError, match=r"\.txt \.json \.srt \.vtt \.tsv"):
        HELLO.save(tmp_path / "talk.docx")
    with pytest.raises(TyndaError, match="No such file"):
        HELLO.save(tmp_path / "none" / "talk.txt")
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(TyndaError, match="Is a directory"):
        HELLO.save(tmp_path / "folder.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.txt"]
    with pytest.raises(TyndaError, match="docx: unknown"):
        write(HELLO, "docx")


TALK = Transcript(
    "Hello there. You? Yes.",
    [
        Segment(
            0, 1.5, "Hello there.", [Word("Hello there.", 0, 1.5, speaker="Zoë")], speaker="Zoë"
        ),
        Segment(1.5, 1.7, "You?", speaker="a <b> & c: d\n--> e\tf"),
        Segment(1.8, 4, "Yes.", speaker="Zoë"),
    ],
    "en",
    5,
)


def test_speakers_in_all_formats() -> None:
    odd = "a <b> & c: d --> e f"
    assert write(TALK, "txt") == f"Zoë: Hello there.\n{odd}: You?\nZoë: Yes.\n"
    assert write(TALK, "tsv") == (
        "start\tend\tspeaker\ttext\n"
        f"0\t1500\tZoë\tHello there.\n1500\t1700\t{odd}\tYou?\n1800\t4000\tZoë\tYes.\n"
    )
    # Captions of two speakers never become one, however short.
    assert write(TALK, "srt") == (
        "1\n00:00:00,000 --> 00:00:01,500\nZoë: Hello there.\n\n"
        "2\n00:00:01,500 --> 00:00:01,800\na <b> & c: d -> e f: You?\n\n"
        "3\n00:00:01,800 --> 00:00:04,000\nZoë: Yes.\n"
    )
    assert write(TALK, "vtt") == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\n<v Zoë>Hello there.\n\n"
        "00:00:01.500 --> 00:00:01.800\n<v a &lt;b&gt; &amp; c: d --&gt; e f>You?\n\n"
        "00:00:01.800 --> 00:00:04.000\n<v Zoë>Yes.\n"
    )
    first, second, _ = json.loads(write(TALK, "json"))["segments"]
    assert (first["speaker"], second["speaker"]) == ("Zoë", TALK.segments[1].speaker)
    assert first["words"][0]["speaker"] == "Zoë"


def test_a_caption_names_its_speaker_only_where_it_changes() -> None:
    again = Transcript(
        "", [Segment(0, 3, "One.", speaker="a"), Segment(9, 12, "Two.", speaker="a")]
    )
    assert write(again, "srt").count("a: ") == 1
    assert write(again, "vtt").count("<v a>") == 2


def test_segments_without_a_speaker_among_others() -> None:
    mixed = Transcript("", [Segment(0, 3, "One."), Segment(9, 12, "Two.", speaker="a")])
    assert write(mixed, "txt") == "One.\na: Two.\n"
    assert write(mixed, "tsv").splitlines()[1] == "0\t3000\t\tOne."
    assert write(mixed, "vtt").count("<v ") == 1
    unnamed = Transcript("", [Segment(0, 3, "One.", speaker=" \n")])
    assert write(unnamed, "txt") == "One.\n"
    assert "<v" not in write(unnamed, "vtt")
