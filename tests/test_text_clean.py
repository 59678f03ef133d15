import json
import tracemalloc
from itertools import islice

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from tynda.cli import main
from tynda.errors import TyndaError
from tynda.text.clean import Cleaner, Settings
from tynda.text.duplicates import Duplicates, signature
from tynda.text.lines import MAX_LINE, Line, read
from tynda.text.repetition import is_repetitive


def cleaned(*texts, **settings):
    cleaner = Cleaner(Settings(**settings))
    kept = [json.loads(line)["text"] for line in cleaner.lines(map(Line, texts))]
    return kept, cleaner.counts


@pytest.mark.parametrize(
    ("text", "clean", "change"),
    [
        ("Сәлем,   әлем!", "Сәлем, әлем!", None),
        ("cәлем достар", "сәлем достар", "look-alike letters"),
        ("2 алма бар", "екі алма бар", "figures"),
        ("Barlyq adamdar teñ bolyp keledı", "Барлық адамдар тең болып келеді", "Latin script"),
        ("ٴبىر ادام كەلدى", "бір адам келді", "Arabic script"),
        ("бүгін мен жұмысқа бармаймын потому что", None, "mixed languages, kept"),
    ],
)
def test_kazakh_lines(text, clean, change):
    kept, counts = cleaned(text)
    assert kept == [clean or text]
    assert dict(counts.changed) == ({change: 1} if change else {})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Введите номер оператора", "other language: ru"),
        ("Please enter your account number", "other language: en"),
        ("Bu gün hava çok güzel", "other language: tr"),
        ("这是一个句子", "other script"),
        ("این یک جمله فارسی است", "other script"),
        ("... !!! ???", "no words"),
        ("★☆★ әке ★☆★ ♫♫", "signs"),
        ("мына жерде www.example.kz", "an address of the web"),
        ("жоқ жоқ жоқ жоқ", "repetition"),
        (
            " ".join(f"сөз{chr(1072 + i % 30)}{chr(1072 + i // 3)}ңдар" for i in range(61)),
            "too many words",
        ),
    ],
)
def test_reasons_of_dropping(text, reason):
    kept, counts = cleaned(text)
    assert (kept, dict(counts.dropped)) == ([], {reason: 1})


def test_other_languages_are_cleaned_too():
    assert cleaned("Введите 2 номера.", language="ru")[0] == ["Введите два номера."]
    assert cleaned("Введіть 2 номери.", language="uk")[0] == ["Введіть два номери."]
    assert cleaned("It costs $2 only", language="en")[0] == ["It costs two dollars only"]


def test_settings_that_do_not_fit():
    with pytest.raises(TyndaError, match="choose one of kk"):
        Settings("xx")
    with pytest.raises(TyndaError, match="above the maximum"):
        Settings(min_words=5, max_words=4)


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=80))
def test_any_line_is_kept_or_counted(text):
    kept, counts = cleaned(text)
    assert counts.read == 1 == counts.kept + sum(counts.dropped.values())
    assert len(kept) == counts.kept
    for line in kept:
        assert cleaned(line)[0] == [line] or any(map(str.isdigit, text))


def test_lines_of_files(tmp_path):
    path = tmp_path / "lines"
    lines = [
        b"\xef\xbb\xbf\xd0\xb0",
        b"",
        b'{"text": "b", "id": 3}',
        b'{"tex": 1}',
        b'{"text": 1}',
        b"{",
        b'{"text": "\\ud800"}',
        b"\xff",
        b"x" * (MAX_LINE + 9),
        b"end",
    ]
    path.write_bytes(b"\n".join(lines))
    found = list(read([str(path)]))
    assert [line.text for line in found] == ["а", "b", None, None, None, None, None, None, "end"]
    assert found[1].entry == {"text": "b", "id": 3}
    assert [line.problem for line in found[2:8]] == [
        *["no text in the JSON"] * 2,
        *["not JSON"] * 2,
        "not UTF-8",
        "too long",
    ]
    with pytest.raises(TyndaError, match="cannot read the text"):
        list(read([str(tmp_path / "none")]))


@given(st.text("абвг ", min_size=5, max_size=60), st.text("абвг ", min_size=5, max_size=60))
def test_signatures_estimate_the_similarity(a, b):
    def grams(text):
        text = f" {text} "
        return {text[i : i + 4] for i in range(len(text) - 3)}

    similarity = len(grams(a) & grams(b)) / len(grams(a) | grams(b))
    estimate = float((signature(a) == signature(b)).mean())
    # The deviation of 64 comparisons is at most 1/16; it is seldom more than five times that.
    assert abs(estimate - similarity) < 5 / 16


def test_near_duplicates_are_found():
    earlier = Duplicates(0.7)
    text = "алға қарай бес метр жүр тоқта сосын солға қарай екі метр жүр"
    assert not earlier.add(text)
    assert earlier.add(text)
    assert earlier.add(text.replace("сосын", "содан"))
    assert not earlier.add("жарықты қос жазбаны оқы")
    assert not earlier.add("")
    assert earlier.add("")


def test_no_duplicates_among_different_texts():
    earlier, rng = Duplicates(0.8, 20_000), np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(3000)]
    texts = [" ".join(rng.choice(words, 8)) for _ in range(3000)]
    assert sum(map(earlier.add, texts)) == 0
    assert sum(map(earlier.add, texts)) == 3000


def test_old_texts_are_forgotten():
    earlier = Duplicates(0.8, 10)
    texts = [f"{chr(97 + i) * 9} {chr(98 + i) * 9}" for i in range(20)]
    assert not any(map(earlier.add, texts))
    assert all(map(earlier.add, texts[10:]))
    assert not any(map(earlier.add, texts[:10]))


def test_memory_does_not_grow_with_the_lines():
    def lines():
        for i in range(100_000):
            yield Line(None if i % 7 else f"{i} алма", problem="x")

    cleaner = Cleaner(Settings(remembered=1000))
    output = cleaner.lines(lines())
    list(islice(output, 500))
    tracemalloc.start()
    list(islice(output, 1500))
    assert tracemalloc.get_traced_memory()[1] < 2_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "repeats"),
    [
        ("no no no", False),
        ("no no no no", True),
        ("i am here i am here now", False),
        ("i am here " * 4, True),
        ("a b a b a b a b", True),
        ("one two three four five six seven eight nine", False),
        ("a b c d e a b c d e a b c d e", True),
        ("", False),
    ],
)
def test_repetition(text, repeats):
    assert is_repetitive(text.split()) == repeats


def test_the_command(tmp_path):
    source, output, counts = (tmp_path / name for name in ("in.txt", "out.jsonl", "counts.json"))
    source.write_text("Сәлем, әлем!\nПривет, как у вас дела?\nСәлем, әлем!\n", "utf-8")
    command = ["text", "clean", str(source), "-o", str(output), "--counts", str(counts)]
    result = CliRunner().invoke(main, command)
    assert result.exit_code == 0, result.output
    assert json.loads(output.read_text("utf-8")) == {"text": "Сәлем, әлем!", "language": "kk"}
    assert json.loads(counts.read_text("utf-8")) == {
        "read": 3,
        "kept": 1,
        "changed": {},
        "dropped": {"other language: ru": 1, "a duplicate": 1},
    }
    assert "1 of 3 lines kept" in result.stderr
    assert "other language: ru 1" in result.stderr


def test_the_command_with_a_file_that_is_missing_leaves_the_old_output(tmp_path):
    output = tmp_path / "out"
    output.write_text("old")
    result = CliRunner().invoke(main, ["text", "clean", str(tmp_path / "no"), "-o", str(output)])
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert "cannot read the text" in result.stderr
    assert output.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_command_prints_plain_lines():
    result = CliRunner().invoke(
        main, ["text", "clean", "-", "--format", "txt"], input="Сәлем, әлем!".encode()
    )
    assert result.stdout == "Сәлем, әлем!\n"
