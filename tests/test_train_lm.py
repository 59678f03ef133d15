"""The command ``tynda train lm``, beside recipes under the same name."""

import pytest
from click.testing import CliRunner

from tynda.cli import main
from tynda.heads.ctc import ngram
from tynda.heads.ctc.ngram import LanguageModel


def run(*args, **options):
    return CliRunner().invoke(main, ["train", *map(str, args)], **options)


def test_an_ngram_of_the_distinct_lines(tmp_path):
    (tmp_path / "a.txt").write_text("I have 2 cats.\nI have two cats\nIt's late!\n")
    (tmp_path / "b.jsonl").write_text('{"audio_filepath": "x", "text": "two dogs"}\n{"t": 1}\n')
    result = run("lm", tmp_path / "a.txt", tmp_path / "b.jsonl", "-o", tmp_path / "x.arpa")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{tmp_path / 'x.arpa'}\n"
    assert "1 lines could not be read" in result.stderr
    assert "3 distinct lines, 8 words" in result.stderr
    expected = ngram.train(["i have two cats", "it's late", "two dogs"], 3, [0, 0, 1])
    assert (tmp_path / "x.arpa").read_text() == expected
    assert "cats" in LanguageModel.load(tmp_path / "x.arpa")


def test_other_languages(tmp_path):
    command = ("lm", "-", "-o", tmp_path / "x.arpa", "--language", "kk", "--order", "2")
    assert run(*command, input="Сәлем, әлем!".encode()).exit_code == 0
    model = LanguageModel.load(tmp_path / "x.arpa")
    assert (model.order, model.words) == (2, frozenset({"сәлем", "әлем"}))


@pytest.mark.parametrize("text", ["", "...\n", "привет\n"])
def test_no_words(tmp_path, text):
    result = run("lm", "-", "-o", tmp_path / "x.arpa", input=text.encode())
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "there are no words" in result.stderr
    assert not (tmp_path / "x.arpa").exists()


def test_recipes_are_named_as_before():
    assert run().exit_code == 2
    assert "Missing argument 'RECIPE'" in run().stderr
    assert "no recipe 'nobody'" in run("nobody").stderr
    assert "no recipe 'nobody'" in run("--resume", "nobody").stderr
    assert run("n2", "--set", "x").exit_code == 1
    help = run("--help").stdout
    assert "--resume" in help
    assert "lm" in help.split("Commands:")[1]
