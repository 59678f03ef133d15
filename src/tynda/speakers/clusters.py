"""Groups windows of speech by voice, into more groups than there are speakers or a given number."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tynda.speakers.resegment import evidence, resegment

__all__ = ["VoiceSpace", "assign"]

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

_WITHIN = 0.52
"""Variance of a person's embeddings of 1.5 s over the variance of all, measured on the people that
the bundled model was trained with. The discriminant analysis behind its last layer makes that of
all dimensions about equal."""
_DISTANCE = 0.5
"""Mean cosine distance up to which two groups become one. It leaves several groups of a speaker,
of which the Markov model keeps those with evidence."""
_PRIORS = 4.0, 2.0, 1.0, 0.5
"""Factors of the prior of a speaker (F_B): the first, and those that leave more speakers, where
more are known to speak."""
_MAX_GROUPS = 30
"""Maximum number of groups, and so of speakers: the Markov model takes time and memory for each."""
_BLOCK = 2000
"""Maximum number of windows that are grouped at once, since all their pairs are compared. It is
more than twice the number of groups, so that blocks leave fewer."""


@dataclass(frozen=True)
class VoiceSpace:
    """The space of embeddings in which windows vary by 1 around a speaker's mean, in all
    directions, and speakers around 0 by ``between``.

    This is probabilistic linear discriminant analysis (Ioffe 2006) with covariances that the last
    layer of the model makes diagonal.
    """

    centre: NDArray[np.float64]
    between: NDArray[np.float64]
    """Variances ``[size]`` of speakers' means."""

    @staticmethod
    def of(cohort: Floats) -> VoiceSpace:
        """Return the space for the mean embeddings ``[people, size]``, of length 1, of a cohort.

        The mean of vectors of length 1 that vary around it is shorter than they are.
        """
        means = cohort.astype(np.float64) * math.sqrt(1 - _WITHIN)
        return VoiceSpace(means.mean(0), means.var(0) * cohort.shape[1] / _WITHIN)

    def __call__(self, voices: Floats) -> NDArray[np.float32]:
        """Map embeddings ``[n, size]`` of length 1 into the space."""
        scale = math.sqrt(len(self.centre) / _WITHIN)
        found: NDArray[np.float32] = (voices - self.centre.astype(np.float32)) * np.float32(scale)
        return found


def assign(voices: Floats, space: VoiceSpace, count: int | None) -> NDArray[np.float64]:
    """Return the probability ``[windows, speakers]`` that each speaker has a window.

    ``voices [windows, size]`` are embeddings of length 1 in the order of time. The number of
    speakers is estimated where ``count`` is None; otherwise it is ``count``, or that of the windows
    where there are fewer.
    """
    if not len(voices):
        return np.zeros((0, 0))
    x = space(voices)
    # Directions without information shrink to the expectation of a speaker's mean.
    expected = x * np.sqrt(space.between / (1 + space.between)).astype(np.float32)
    groups = _groups(expected, _MAX_GROUPS)
    if count is None:
        return _kept(resegment(x, space.between, groups, _PRIORS[0]))
    count = min(count, len(voices))
    for prior in _PRIORS:
        owned = _kept(resegment(x, space.between, groups, prior))
        if owned.shape[1] >= count:
            return _merged(owned, x, space.between, count, _PRIORS[0])
    return np.eye(count)[_groups(expected, count, distance=0.0)]


def _merged(
    owned: NDArray[np.float64], x: Floats, between: Floats, count: int, prior: float
) -> NDArray[np.float64]:
    """Return the probabilities with ``count`` speakers: again and again, those two become one
    whose windows lose the least evidence, as `resegment` has it."""
    while (speakers := owned.shape[1]) > count:
        firsts, seconds = np.triu_indices(speakers, 1)
        windows, sums = owned.sum(0), owned.T @ x
        alone = evidence(windows, sums, between, prior)
        pairs = windows[firsts] + windows[seconds], sums[firsts] + sums[seconds]
        together = evidence(*pairs, between, prior)
        best = int((together - alone[firsts] - alone[seconds]).argmax())
        owned[:, firsts[best]] += owned[:, seconds[best]]
        owned = np.delete(owned, seconds[best], axis=1)
    return owned


def _kept(owned: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities of the speakers that are the most probable one of any window."""
    kept = owned[:, np.unique(owned.argmax(1))]
    found: NDArray[np.float64] = kept / kept.sum(1, keepdims=True)
    return found


def _groups(vectors: Floats, most: int, distance: float = _DISTANCE) -> Integers:
    """Return the group, from 0 on, of each of ``vectors [n, size]``.

    More than `_BLOCK` vectors are grouped in blocks first, and then the sums of these groups.
    """
    blocks = max(1, math.ceil(len(vectors) / _BLOCK))
    if blocks == 1:
        return _tree(vectors, most, distance)
    labels = np.zeros(len(vectors), int)
    sums: list[Floats] = []
    for block in np.array_split(np.arange(len(vectors)), blocks):
        own = _tree(vectors[block], most, distance)
        labels[block] = own + len(sums)
        sums += [vectors[block][own == group].sum(0) for group in range(own.max() + 1)]
    found: Integers = _groups(np.array(sums), most, distance)[labels]
    return found


def _tree(vectors: Floats, most: int, distance: float = 0.0) -> Integers:
    """Return the group of each of ``vectors [n, size]`` by agglomerative clustering with average
    linkage: groups that are at most ``distance`` apart are one, and there are at most ``most``."""
    if len(vectors) < 2:
        return np.zeros(len(vectors), int)
    from scipy.cluster.hierarchy import fcluster, linkage  # of the extra [speakers]

    lengths = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)
    # The squared distance of vectors of length 1 is twice the cosine distance.
    tree = linkage(vectors / lengths, "average", metric="sqeuclidean")
    groups: Integers = fcluster(tree, 2 * distance, "distance") - 1
    if groups.max() >= most:
        groups = fcluster(tree, most, "maxclust") - 1
    return groups
