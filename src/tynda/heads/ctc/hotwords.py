"""Finding hot words and phrases while they are being spelled."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

__all__ = ["HotWords"]


class HotWords:
    """An automaton over characters that counts those which belong to hot phrases.

    Aho & Corasick (1975) over the phrases with a space before and after, so that only whole
    words match. After any text it has counted the characters of all phrases found (one inside
    another counts as well), plus those spelled since of a phrase that is not complete yet;
    when the spelling fails, `step` takes the latter back.

    States are integers: `start` is that of the beginning of a text or of a word; `pending[s]`
    is what would be taken back if the text ended in s; `max_gain` is the most that a step adds.
    """

    def __init__(self, phrases: Sequence[Sequence[Hashable]], space: Hashable) -> None:
        """`phrases` are characters without a space at either end; empty ones are passed over."""
        self._next: list[dict[Hashable, int]] = [{}]
        self._fail = [0]
        self._matched = [0]  # characters of the phrases that are complete in this state
        self.pending = [0]
        self.start = self._add(0, space)
        for phrase in phrases:
            state = self.start
            for character in phrase:
                state = self._add(state, character)
            if phrase:
                self._matched[self._add(state, space)] = len(phrase)
        self._link_failures()
        self.max_gain = max(self._gains())

    def step(self, state: int, character: Hashable) -> tuple[int, int]:
        """The state after one more character, and by how many characters the count changes."""
        after = self._follow(state, character)
        return after, self._matched[after] + self.pending[after] - self.pending[state]

    def _gains(self) -> Iterator[int]:
        """What each step adds that leads to a phrase; all others take back, or do nothing."""
        for state in range(len(self._next)):
            ending = state
            while ending:
                for character in self._next[ending]:
                    yield self.step(state, character)[1]
                ending = self._fail[ending]
        yield 0

    def _add(self, state: int, character: Hashable) -> int:
        if character not in self._next[state]:
            self._next[state][character] = len(self._next)
            self._next.append({})
            self._fail.append(0)
            self._matched.append(0)
            self.pending.append(0)
        return self._next[state][character]

    def _follow(self, state: int, character: Hashable) -> int:
        while character not in self._next[state]:
            if state == 0:
                return 0
            state = self._fail[state]
        return self._next[state][character]

    def _link_failures(self) -> None:
        """Give each state, parents first, that of its longest proper ending, and its counts."""
        queue = [0]
        for state in queue:
            for character, child in self._next[state].items():
                self._fail[child] = self._follow(self._fail[state], character) if state else 0
                complete = child == self.start or self._matched[child] > 0
                self.pending[child] = 0 if complete else self.pending[state] + 1
                self._matched[child] += self._matched[self._fail[child]]
                queue.append(child)
