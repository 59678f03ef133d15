"""Grammars from files: a plain list of sentences, or intents of Home Assistant in YAML.

Both have the template syntax of Home Assistant, which its own library ``hassil`` parses
(developers.home-assistant.io/docs/voice/intent-recognition/template-sentence-syntax).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from types import ModuleType
from typing import Any

from tynda.commands.templates import Grammar, Sentence
from tynda.errors import TyndaError

__all__ = ["MAX_BYTES", "parse", "read"]

MAX_BYTES = 1_000_000
"""The maximum size of a grammar."""
_MAX_VALUES = 100_000
"""The maximum number of values in a YAML file, those that aliases repeat included."""
_MAX_TEMPLATE = 2_000
"""The maximum number of characters of a template."""
_MAX_DEPTH = 16
"""The maximum depth of brackets in a template."""
_LIST = re.compile(r"\{(\w+)\}\s*=(.*)")


def read(path: str | PathLike[str], language: str | None = None) -> Grammar:
    """Read a grammar; a name that ends in ``.yaml`` or ``.yml`` is a file of intents.

    ``language`` is that in which numbers are spoken where the file does not state it; the default
    is English. Raises `TyndaError` for a file that cannot be read or is no grammar, and where
    ``hassil`` is not installed.
    """
    from tynda.commands import convert  # It needs hassil.

    path = Path(path)
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise TyndaError(f"{path}: cannot read the grammar ({error.strerror})") from None
    if len(data) > MAX_BYTES:
        raise TyndaError(f"{path}: the grammar has more than {MAX_BYTES:,} bytes: make it shorter")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise TyndaError(f"{path}: the grammar is not in UTF-8: convert it") from None
    try:
        return _parsed(convert, text, language, is_yaml=path.suffix.lower() in (".yaml", ".yml"))
    except TyndaError as error:
        raise TyndaError(f"{path}: {error}") from None


def parse(text: str, language: str | None = None, *, is_yaml: bool = False) -> Grammar:
    """Return the grammar in a text: a plain list, or intents. Arguments and errors are those of
    `read`."""
    from tynda.commands import convert  # It needs hassil.

    return _parsed(convert, text, language, is_yaml=is_yaml)


def _parsed(convert: ModuleType, text: str, language: str | None, *, is_yaml: bool) -> Grammar:
    grammar = (_intents if is_yaml else _list)(convert, text, language)
    if not grammar.sentences:
        raise TyndaError("the grammar has no sentence: write one on each line")
    return grammar


def _list(convert: ModuleType, text: str, language: str | None) -> Grammar:
    """Read a plain list: a sentence, or ``{name} = one|other``, on each line."""
    lines, lists = list[tuple[int, str]](), dict[str, str]()
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        _check_template(line, f"line {number}")
        if found := _LIST.fullmatch(line):
            lists[found[1]] = found[2].strip()
        else:
            lines.append((number, line))
    converter = convert.Converter.of_list(lists, language or "en")
    sentences = []
    for number, line in lines:
        try:
            sentences.append(Sentence(converter.sentence(line), line))
        except TyndaError as error:
            raise TyndaError(f"line {number}: {error}") from None
    return Grammar(tuple(sentences), language)


def _intents(convert: ModuleType, text: str, language: str | None) -> Grammar:
    """Read the intents of Home Assistant."""
    import yaml  # hassil requires it.

    try:
        # The loader in C reads a megabyte in a fraction of the time; both make plain data alone.
        data = yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise TyndaError(f"the grammar is not YAML ({reason})") from None
    for value in _values(data):
        if isinstance(value, str):
            _check_template(value, f"{value[:40]!r}")
    if not (isinstance(data, dict) and data.get("intents")):
        raise TyndaError(
            "the grammar has no intents: write them as Home Assistant does, or name a plain list "
            "of sentences .txt"
        )
    intents = convert.intents_of(data)
    sentences = []
    for name, intent in intents.intents.items():
        for block in intent.data:
            converter = convert.Converter.of_intents(intents, block, language)
            texts, slots = block.sentence_texts, block.slots
            if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
                raise TyndaError(f"the sentences of {name} are not a list of texts: write one")
            if not isinstance(slots, dict):
                raise TyndaError(f"the slots of {name} are not names with values: write them so")
            for source in texts:
                try:
                    template = converter.sentence(source)
                except TyndaError as error:
                    raise TyndaError(f"{source[:80]!r} of {name}: {error}") from None
                sentences.append(Sentence(template, source, str(name), dict(slots)))
    return Grammar(tuple(sentences), intents.language)


def _values(data: Any) -> Iterator[Any]:
    """Yield all values of parsed YAML. Aliases repeat values, so that their number is limited."""
    pending, count = [data], 0
    while pending:
        value = pending.pop()
        yield value
        nested = [*value, *value.values()] if isinstance(value, dict) else value
        if isinstance(nested, list):
            count += len(nested)
            if count > _MAX_VALUES:
                raise TyndaError(f"the grammar has more than {_MAX_VALUES:,} values: shorten it")
            pending += nested


def _check_template(text: str, where: str) -> None:
    """Refuse what a parser that calls itself for each bracket cannot read."""
    if len(text) > _MAX_TEMPLATE:
        raise TyndaError(f"{where} has more than {_MAX_TEMPLATE:,} characters: split it")
    depth = 0
    for character in text:
        depth += (character in "([{<") - (character in ")]}>")
        if depth > _MAX_DEPTH:
            raise TyndaError(f"{where} has more than {_MAX_DEPTH} brackets in each other")
