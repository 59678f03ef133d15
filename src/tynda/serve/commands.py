"""Commands of a grammar that comes with the request, in a recording or in a live session."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from fastapi.responses import Response

from tynda.commands.read import MAX_BYTES, parse
from tynda.commands.recognizer import Answer, CommandRecognizer
from tynda.commands.session import CommandSession
from tynda.model import Model
from tynda.serve.access import service_of
from tynda.serve.errors import invalid_value
from tynda.serve.fields import RESPONSES, Language, ModelName, Recording, recording_of
from tynda.serve.recognition import check_options, limited
from tynda.serve.uploads import UploadRoute, result_of, ticket_of
from tynda.sound.audio import SAMPLE_RATE

__all__ = ["live_commands", "router"]

router = APIRouter(route_class=UploadRoute, tags=["commands"])

Grammar = Annotated[str, Form(max_length=MAX_BYTES, description="A list, or intents in YAML.")]


@router.post("/v1/commands", responses=RESPONSES, response_class=Response)
async def commands(
    request: Request,
    file: Recording,
    model: ModelName,
    grammar: Grammar,
    language: Language = "",
) -> Response:
    """Recognise the sentences of a grammar in a recording, and refuse everything else."""
    service = service_of(request)
    data = recording_of(service, file, model)
    options = {"language": language} if language else {}
    ticket = ticket_of(request)

    def compute(model: Model) -> list[Answer]:
        session = CommandSession(_recognizer(model, grammar, options))
        found: list[Answer] = []
        blocks = service.decoder.decode(data, ticket)
        for block in limited(blocks, ticket, service.settings.max_seconds):
            for i in range(0, len(block), SAMPLE_RATE):
                ticket.check()
                found += session.feed(block[i : i + SAMPLE_RATE])
            service.metrics.audio.inc(len(block) / SAMPLE_RATE)
        return found + session.finish()

    answers = await result_of(request, ticket, service.run(compute, ticket))
    body = json.dumps({"answers": [each.to_dict() for each in answers]}, ensure_ascii=False)
    return Response(body, media_type="application/json")


def live_commands(
    grammar: Any, options: Mapping[str, Any], rate: int
) -> Callable[[Model], CommandSession]:
    """Return the function that opens a live session of commands at ``rate`` hertz."""

    def opened(model: Model) -> CommandSession:
        return CommandSession(_recognizer(model, grammar, options), rate)

    return opened


def _recognizer(model: Model, grammar: Any, options: Mapping[str, Any]) -> CommandRecognizer:
    """Return the recogniser of a grammar in a text: intents in YAML, or else a list.

    Raises `ServeError` for a grammar that is no text and for options that the model lacks, and
    `TyndaError` for a grammar that is not valid.
    """
    try:
        size = len(grammar.encode())
    except AttributeError:  # JSON may have other values.
        size = 0
    if not 0 < size <= MAX_BYTES:
        raise invalid_value(f"grammar must be a text of 1 to {MAX_BYTES:,} bytes", "grammar")
    check_options(model, options)
    known = model.header.languages
    spoken = options.get("language") or (known[0] if len(known) == 1 else None)
    is_yaml = any(line.startswith("intents:") for line in grammar.splitlines())
    return model.commands(parse(grammar, spoken, is_yaml=is_yaml), model.options(**options))
