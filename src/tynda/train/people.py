"""The base of trainers of voices: the recordings of each person, and dev without these people."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from tynda import manifest
from tynda.errors import TyndaError
from tynda.manifest import Utterance
from tynda.speakers.calibrate import person
from tynda.train import data as train_data
from tynda.train.data import Corpus
from tynda.train.loop import Trainer
from tynda.train.start import shared_weights

__all__ = ["PeopleTrainer", "names_of", "recordings_of"]


class PeopleTrainer(Trainer):
    """A `Trainer` whose examples are made of people's recordings, not of texts.

    The people of dev are not those of the training set: recordings of such people are left out of
    dev.
    """

    def _read_sources(self, folder: Path) -> tuple[list[Utterance], list[list[int]]]:
        """Return the recordings of known people, and the indices that belong to each source."""
        d = self.recipe.data
        utterances: list[Utterance] = []
        members: list[list[int]] = []
        for source in d.train:
            known = [u for u in manifest.read(folder / source.manifest) if person(u)]
            if not known:
                raise TyndaError(f"{source.manifest} names no speaker: it cannot train voices")
            known = [u for u in known if u.speaker not in d.exclude_speakers]
            members.append(list(range(len(utterances), len(utterances) + len(known))))
            utterances += known
        return utterances, members

    def _open_data(
        self, folder: Path, utterances: list[Utterance], members: list[list[int]]
    ) -> None:
        d, cache = self.recipe.data, self.output / "cache"
        noises, rooms = (manifest.read(folder / m) if m else None for m in (d.noise, d.rooms))
        names = names_of(utterances)
        self._say(f"{len(names)} people, {len(utterances)} recordings of them")
        self.corpus = Corpus(utterances, cache)
        self.frontend = self.objective.frontend = train_data.fitted(self.frontend, self.corpus)
        self.objective.check(self.corpus)
        self.noises = Corpus(noises, cache) if noises else None
        self.rooms = Corpus(rooms, cache) if rooms else None
        self.people = recordings_of(self.corpus, names)
        index = {name: i for i, name in enumerate(names)}
        self.shares = np.zeros(len(names))
        for source, own in zip(d.train, members, strict=True):
            self.shares[[index[person(utterances[i]) or ""] for i in own]] = source.weight
        dev = [u for m in d.dev for u in manifest.read(folder / m) if person(u)]
        strangers = [u for u in dev if person(u) not in index]
        if len(strangers) < len(dev):
            warnings.warn(
                f"{len(dev) - len(strangers)} dev recordings are of people to train on: left out",
                stacklevel=2,
            )
        self.dev_corpus = Corpus(strangers, cache) if strangers else None
        self.dev = None

    def _initial_model(self, path: Path) -> dict[str, Tensor]:
        """Read the weights of a model file that this one has too, among them all blocks."""
        return shared_weights(path, self.objective.family, self.objective.config, "blocks")


def names_of(utterances: Sequence[Utterance]) -> list[str]:
    """Return the names of the people of recordings, in order."""
    return sorted({name for u in utterances if (name := person(u))})


def recordings_of(corpus: Corpus, names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Return the recordings of each person. Raises `TyndaError` for a person without any."""
    found: dict[str | None, list[int]] = defaultdict(list)
    for i, utterance in enumerate(corpus.utterances):
        if corpus.seconds(i) >= train_data.SHORTEST:
            found[person(utterance)].append(i)
    if missing := [name for name in names if not found[name]]:
        raise TyndaError(f"no recording of {missing[0]} can be read: check the manifests")
    return [np.array(found[name]) for name in names]
