"""The schema of settings: which values fit, their description, and the options made from it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pytest

from tynda.checks import Range, Rule, Setting, check, describe, fits, schema, setting, simple
from tynda.errors import TyndaError
from tynda.heads.ctc.options import CTCOptions
from tynda.heads.seq2seq.options import Options
from tynda.heads.settings import HEADINGS

NAN, INF = float("nan"), float("inf")
Few = Annotated[int, Range(1, 8)]
Even = Annotated[int, Rule("an even number", lambda x: x % 2 == 0)]
Name = Annotated[str | PathLike[str], Rule("the name of a file", lambda x: str(x) != "")]


@pytest.mark.parametrize(
    ("hint", "good", "bad"),
    [
        (int, [0, -5, np.int8(3), 2**63 - 1], [1.0, "1", True, None, 2**63, np.float32(1)]),
        (
            float,
            [0, 1.5, np.float32(1), np.uint8(2)],
            [NAN, INF, "1", False, Fraction(1, 2), 2**63],
        ),
        (bool, [True, False], [0, 1, None, "yes"]),
        (str, ["", "a"], [b"a", 1, None]),
        (Few, [1, 8, np.int64(4)], [0, 9, 4.0, True, "4"]),
        (Few | None, [None, 1], [0, "4"]),
        (Annotated[float, Range(0, above=True)], [1e-9, 1e30], [0, -1, NAN, INF]),
        (Annotated[float, Range(0, 1, below=True)], [0, 0.5], [1, 1.0, -0.1, NAN]),
        (Even, [0, 2], [1, 2.0]),
        (Literal["exact", "fit"], ["exact"], ["Exact", 1, None, np.zeros(2)]),
        (tuple[Few, ...], [(), (1, 2)], [[1], (0,), 1]),
        (tuple[float, float], [(1, 2.5)], [(1,), (1, 2, 3)]),
        (Sequence[Few], [(), [1, 2], (3,)], ["12", 1, [0], None]),
        (Sequence[str], [["a"]], ["a", b"a", [1]]),
        (Name, ["a", Path("a")], ["", 3, None]),
        (Mapping[str, Any], [{}, {"a": 1.0}], [{"a": NAN}, [], None]),
    ],
)
def test_what_fits_an_annotation(hint, good, bad):
    assert [value for value in good if not fits(value, hint)] == []
    assert [value for value in bad if fits(value, hint)] == []


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        (Few | None, "a whole number from 1 to 8"),
        (Annotated[float, Range(0, above=True)], "a number above 0"),
        (Annotated[float, Range(0)], "a number of 0 or more"),
        (Annotated[int, Range(2)], "a whole number of at least 2"),
        (Annotated[float, Range(0, 1, below=True)], "a number of at least 0 and below 1"),
        (Annotated[float, Range(0, 1000, above=True)], "a number above 0 and up to 1000"),
        (Annotated[int, Range(0, 2**32)], "a whole number from 0 to 4294967296"),
        (Even, "a whole number, an even number"),
        (Name | None, "the name of a file"),
        (str | Few, "text or a whole number from 1 to 8"),
        (Literal["exact", "fit"], "exact or fit"),
        (tuple[float, float], "a list of 2, each a number"),
        (Sequence[Few], "a list, each a whole number from 1 to 8"),
        (bool, "true or false"),
    ],
)
def test_a_message_says_what_would_fit(hint, words):
    assert describe(hint) == words


@dataclass(frozen=True)
class Search:
    width: Few = setting(4, "How wide.")
    window: Literal["exact", "fit"] | None = None

    def __post_init__(self):
        check(self)


def test_the_first_field_that_does_not_fit_is_named():
    assert (Search().width, Search(8, "fit").window) == (4, "fit")
    with pytest.raises(TyndaError, match=r"^width must be a whole number from 1 to 8, not 9$"):
        Search(9, "wide")
    with pytest.raises(TyndaError, match=r"^window must be exact or fit, not 'wide'$"):
        Search(window="wide")


def test_a_type_and_its_range_are_taken_out_of_an_annotation():
    assert simple(Few | None) == (int, Range(1, 8))
    assert simple(Name | None)[1] is None
    assert simple(bool) == (bool, None)


@pytest.mark.parametrize("kind", [CTCOptions, Options])
def test_every_setting_of_a_decoder_says_what_it_does(kind):
    for field in fields(kind):
        said = field.metadata["setting"]
        assert isinstance(said, Setting)
        assert said.help.endswith(".")
        assert said.heading in HEADINGS
    kind(**{field.name: field.default for field in fields(kind)})


def test_settings_of_one_name_are_of_one_kind():
    """The command line has one option for them."""
    ctc, seq2seq = schema(CTCOptions), schema(Options)
    shared = set(ctc) & set(seq2seq)
    assert shared == {"beam_size", "hotwords", "language", "speech_threshold", "word_timestamps"}
    assert all(ctc[name] == seq2seq[name] for name in shared)
