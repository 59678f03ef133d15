"""Templates from the parser of Home Assistant, ``hassil``, with lists and rules filled in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

from tynda.commands.templates import Choice, Series, Slot, Template, Text
from tynda.errors import TyndaError
from tynda.extras import install

try:
    import hassil
    from hassil.numbers import get_rbnf_engine
    from hassil.parser import ParseError
except ImportError:
    raise TyndaError(f"a grammar needs hassil: {install('commands')}") from None

__all__ = ["Converter", "intents_of"]

_MAX_NUMBERS = 10_000
"""The maximum count of numbers in a range."""
_MAX_PERMUTED = 4
"""The maximum number of parts that may be spoken in any order."""
# Whatever hassil raises for data and templates that it does not expect.
_FOREIGN = (
    ParseError,
    AssertionError,
    AttributeError,
    IndexError,
    KeyError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)


def intents_of(data: Any) -> hassil.Intents:
    """Return the intents in parsed YAML. Raises `TyndaError` where it has another form."""
    try:
        return hassil.Intents.from_dict(data)
    except _FOREIGN as error:
        raise TyndaError(
            "the grammar does not have the form of Home Assistant's intents "
            f"({type(error).__name__}: {str(error)[:100]}): it needs language and intents, each "
            "with data and sentences, and texts such as 'on' in quotes"
        ) from None


class Converter:
    """Converts templates with the lists and rules that they may name."""

    def __init__(
        self,
        lists: Mapping[str, hassil.SlotList],
        rules: Mapping[str, hassil.Sentence],
        language: str,
    ) -> None:
        self._lists, self._rules, self._language = lists, rules, language
        self._converted: dict[str, Template] = {}
        self._active: list[str] = []
        """The rules and lists that are being converted, to refuse those that contain themselves."""

    @classmethod
    def of_list(cls, lists: Mapping[str, str], language: str) -> Converter:
        """Return a converter for templates of lists, by their names; a value is its own text."""
        slot_lists = {}
        for name, template in lists.items():
            parsed = _parsed(template)
            items = parsed.items if isinstance(parsed, hassil.Alternative) else [parsed]
            values = [hassil.TextSlotValue(text_in=item, value_out=None) for item in items]
            slot_lists[name] = hassil.TextSlotList(name, values)
        return cls(slot_lists, {}, language)

    @classmethod
    def of_intents(
        cls, intents: hassil.Intents, block: hassil.IntentData, language: str | None
    ) -> Converter:
        """Return the converter of one block of sentences."""
        return cls(
            {**intents.slot_lists, **block.slot_lists},
            {**intents.expansion_rules, **block.expansion_rules},
            str(intents.language or language or "en"),
        )

    def sentence(self, source: str) -> Template:
        """Return the template of a sentence. Raises `TyndaError` for one that is not valid."""
        return self._convert(_parsed(source))

    def _convert(self, part: hassil.Expression) -> Template:
        match part:
            case hassil.TextChunk():
                return Text(part.text)
            case hassil.Permutation():
                if len(part.items) > _MAX_PERMUTED:
                    raise TyndaError(
                        f"more than {_MAX_PERMUTED} parts in any order (;): write out the orders"
                    )
                items = [self._convert(item) for item in part.items]
                return Choice(tuple(Series(order) for order in permutations(items)))
            case hassil.Alternative():
                return Choice(tuple(self._convert(item) for item in part.items))
            case hassil.Group():
                return Series(tuple(self._convert(item) for item in part.items))
            case hassil.RuleReference():
                return self._rule(part.rule_name)
            case hassil.ListReference():
                return self._list(part)
        raise TyndaError(f"a {type(part).__name__} is not supported in a template")

    def _rule(self, name: str) -> Template:
        key = f"<{name}>"
        if name not in self._rules:
            raise TyndaError(f"there is no rule {key}: define it under expansion_rules")
        if key not in self._converted:
            self._enter(key)
            self._converted[key] = self._convert(self._rules[name].expression)
            self._active.pop()
        return self._converted[key]

    def _list(self, part: hassil.ListReference) -> Template:
        name, key = part.list_name, f"{{{part.list_name}}}"
        if part.is_inline_range:
            start, stop, step = part.get_inline_range() or (0, 0, 1)
            spoken = tuple(self._numbers(part.slot_name, start, stop, step, 1, self._language))
            if not spoken:
                raise TyndaError(f"the range {start}..{stop} is empty: the lower number is first")
            return Choice(spoken)
        if key in self._converted:
            return _renamed(self._converted[key], part.slot_name)
        match self._lists.get(name):
            case hassil.TextSlotList(values=values):
                self._enter(key)
                slots = [slot for value in values for slot in self._slots(part.slot_name, value)]
                self._active.pop()
            case hassil.RangeSlotList() as numbers:
                if numbers.fraction_type is not None:
                    raise TyndaError(f"the list {key} has fractions, which are not supported")
                slots = list(
                    self._numbers(
                        part.slot_name,
                        numbers.start,
                        numbers.stop,
                        numbers.step,
                        numbers.multiplier or 1,
                        numbers.words_language or self._language,
                    )
                )
            case hassil.WildcardSlotList():
                raise TyndaError(f"the list {key} is a wildcard: give the words that it may have")
            case _:
                raise TyndaError(f"there is no list {key}: define its values")
        if not slots:
            raise TyndaError(f"the list {key} is empty: give it values")
        found = Choice(tuple(slots))
        self._converted[key] = found
        return found

    def _slots(self, name: str, value: hassil.TextSlotValue) -> Iterator[Slot]:
        """Yield the slots of one value of a list; without an output, a value is its own text."""
        if value.value_out is not None:
            yield Slot(name, value.value_out, self._convert(value.text_in))
        else:
            for text in self._texts(value.text_in):
                yield Slot(name, text, Text(text))

    def _texts(self, part: hassil.Expression) -> list[str]:
        """Return the texts of a value of a list, which may have optional words and alternatives."""
        found = sorted(set(_texts(self._convert(part))))
        return [" ".join(text.split()) for text in found if text.strip()]

    def _numbers(
        self, name: str, start: int, stop: int, step: int, multiplier: float, language: str
    ) -> Iterator[Slot]:
        numbers = range(start, stop + 1, max(1, step))
        if len(numbers) > _MAX_NUMBERS:
            raise TyndaError(f"a range has more than {_MAX_NUMBERS:,} numbers: make it shorter")
        try:
            engine = get_rbnf_engine(language)
        except _FOREIGN:
            raise TyndaError(f"numbers in the language {language!r} are not known") from None
        for number in numbers:
            spoken = sorted(set(engine.format_number(number).text_by_ruleset.values()))
            value = number if multiplier == 1 else number * multiplier
            yield Slot(name, value, Choice((*map(Text, spoken), Text(str(number)))))

    def _enter(self, key: str) -> None:
        if key in self._active:
            raise TyndaError(f"{key} contains itself: end the circle")
        self._active.append(key)


def _parsed(source: str) -> hassil.Expression:
    try:
        return hassil.parse_sentence(source).expression
    except _FOREIGN:
        raise TyndaError(
            f"the template {source[:80]!r} cannot be read: close each bracket, and put no bracket "
            "without anything in it"
        ) from None


def _renamed(template: Template, name: str) -> Template:
    """Return the choice of a list for another slot."""
    assert isinstance(template, Choice)
    slots = [item for item in template.items if isinstance(item, Slot)]
    return Choice(tuple(Slot(name, slot.value, slot.item) for slot in slots))


def _texts(template: Template) -> list[str]:
    """Return all texts of a template, of which there may be a thousand."""
    match template:
        case Text(text=text):
            found = [text]
        case Slot(item=item):
            found = _texts(item)
        case Choice(items=items):
            found = [text for item in items for text in _texts(item)]
        case Series(items=items):
            found = [""]
            for item in items:
                ends = _texts(item)
                if len(found) * len(ends) > _MAX_NUMBERS:
                    break
                found = [text + end for text in found for end in ends]
            else:
                return found
            found = [""] * (_MAX_NUMBERS + 1)
    if len(found) > _MAX_NUMBERS:
        raise TyndaError(f"a value has more than {_MAX_NUMBERS:,} texts: give it an output")
    return found
