"""An automaton that matches hot words and phrases character by character."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

__all__ = ["HotWords"]


class HotWords:
    """An automaton that counts the characters of hot words and phrases in a text.

    Aho & Corasick (1975), over the phrases with a space before and after, so that only whole words
    match. The count includes the characters of all complete matches (also of a match inside
    another), and those of the current partial match; when that fails, `step` subtracts them.

    States are integers: `start` is the state at the beginning of a text or of a word, `pending[s]`
    the number of characters of the partial match in state s, and `max_gain` the maximum that a step
    adds to the count.
    """

    def __init__(self, phrases: Sequence[Sequence[Hashable]], space: Hashable) -> None:
        """`phrases` are sequences of characters that neither begin nor end with a space; empty
        phrases are ignored."""
        self._next: list[dict[Hashable, int]] = [{}]
        self._fail = [0]
        self._matched = [0]  # The number of characters of the phrases that end in this state.
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
        """Return the state after one more character, and the change of the count."""
        after = self._follow(state, character)
        return after, self._matched[after] + self.pending[after] - self.pending[state]

    def _gains(self) -> Iterator[int]:
        """Yield the change of each step that extends a match; no other step adds to the count."""
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
        """Compute the failure link (the state of the longest proper suffix) and the counts of each
        state, in breadth-first order."""
        queue = [0]
        for state in queue:
            for character, child in self._next[state].items():
                self._fail[child] = self._follow(self._fail[state], character) if state else 0
                complete = child == self.start or self._matched[child] > 0
                self.pending[child] = 0 if complete else self.pending[state] + 1
                self._matched[child] += self._matched[self._fail[child]]
                queue.append(child)
