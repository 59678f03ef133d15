"""OpenAI's audio API: transcriptions and translations of recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request, UploadFile
from fastapi.responses import Response, StreamingResponse

from tynda.serve.access import authorize, service_of
from tynda.serve.answers import MEDIA_TYPES, Format, answer, event
from tynda.serve.errors import ServeError, as_serve_error, invalid_value
from tynda.serve.fields import (
    RESPONSES,
    Answer,
    Granularities,
    Keywords,
    Language,
    ModelName,
    Recording,
    SpeakerCount,
    Temperature,
    Text,
    check_granularities,
    decoder_options,
    format_of,
    recording_of,
    unsupported,
    word_times,
)
from tynda.serve.logs import log_error
from tynda.serve.people import diarizer_of, known_speakers
from tynda.serve.texts import Texts
from tynda.serve.uploads import UploadRoute, disconnected, result_of, ticket_of
from tynda.serve.workers import Ticket
from tynda.speakers.diarize import Diarizer
from tynda.transcript import Transcript

__all__ = ["router"]

router = APIRouter(prefix="/v1/audio", route_class=UploadRoute, tags=["audio"])


@router.post("/transcriptions", responses=RESPONSES, response_class=Response)
async def transcriptions(
    request: Request,
    file: Recording,
    model: ModelName,
    language: Language = "",
    languages: Annotated[list[str] | None, Form(alias="languages[]")] = None,
    prompt: Text = "",
    keywords: Keywords = None,
    response_format: Answer = "json",
    temperature: Temperature = 0.0,
    timestamp_granularities: Granularities = None,
    stream: Annotated[bool, Form()] = False,
    include: Annotated[list[str] | None, Form(alias="include[]")] = None,
    chunking_strategy: Annotated[str, Form(max_length=1000)] = "auto",
    chunking_type: Annotated[str, Form(alias="chunking_strategy[type]", max_length=1000)] = "auto",
    known_speaker_names: Annotated[list[str] | None, Form(alias="known_speaker_names[]")] = None,
    known_speaker_references: Annotated[
        list[str] | None, Form(alias="known_speaker_references[]")
    ] = None,
    speakers: SpeakerCount = None,
) -> Response:
    """Transcribe a recording, as OpenAI's "Create transcription" documents it."""
    asked = language or ((languages or [""])[0] if len(languages or []) < 2 else None)
    if asked is None:
        raise unsupported("languages[]", "several languages: name one, or none")
    if include:
        raise unsupported("include[]", "log-probabilities of tokens")
    if {chunking_strategy, chunking_type} != {"auto"}:
        raise unsupported("chunking_strategy", 'chunks other than "auto"')
    wanted = format_of(response_format)
    granularities = set(timestamp_granularities or ["segment"])
    check_granularities(timestamp_granularities, wanted)
    if stream and wanted not in ("json", "text"):
        raise invalid_value("stream needs the response_format json or text", "stream")
    known = known_speakers(known_speaker_names, known_speaker_references)
    if (known or speakers) and wanted != "diarized_json":
        raise invalid_value(
            "speakers need the response_format diarized_json",
            "known_speaker_names[]" if known else "speakers",
        )
    options = decoder_options(asked, prompt, temperature, keywords)
    if "word" in granularities:
        options |= word_times(service_of(request))
    told_apart = (speakers, known) if wanted == "diarized_json" else None
    return await _answered(
        request, file, model, options, wanted, granularities, stream=stream, speakers=told_apart
    )


@router.post("/translations", responses=RESPONSES, response_class=Response)
async def translations(
    request: Request,
    file: Recording,
    model: ModelName,
    prompt: Text = "",
    response_format: Answer = "json",
    temperature: Temperature = 0.0,
) -> Response:
    """Translate a recording into English, as OpenAI's "Create translation" documents it."""
    wanted = format_of(response_format)
    if wanted == "diarized_json":
        raise unsupported("response_format", "translations with speakers")
    options = {**decoder_options("", prompt, temperature), "task": "translate"}
    return await _answered(request, file, model, options, wanted, {"segment"}, task="translate")


async def _answered(
    request: Request,
    file: UploadFile,
    model: str,
    options: Mapping[str, Any],
    wanted: Format,
    granularities: set[str],
    *,
    stream: bool = False,
    task: str = "transcribe",
    speakers: tuple[int | None, Sequence[tuple[str, bytes]]] | None = None,
) -> Response:
    """Answer a request; ``speakers`` are their number and those who are known, where it asks who
    said what."""
    service = service_of(request)
    data = recording_of(service, file, model)
    ticket = ticket_of(request)
    if stream:
        texts = Texts()
        future = service.submit(data, options, ticket, texts.put)
        return await _streamed(request, ticket, texts, future)
    if speakers is None:
        future = service.submit(data, options, ticket)
    else:
        count, known = speakers
        owner = authorize(request, is_counted=False).owner

        def diarizer() -> Diarizer:
            return diarizer_of(
                service.store.people,
                owner,
                service.settings.threads,
                count,
                known,
                lambda data: service.decoder.decode(data, ticket),
            )

        future = service.submit(data, options, ticket, diarizer=diarizer)
    transcript = await result_of(request, ticket, future)
    body = answer(transcript, wanted, granularities, task)
    return Response(body, media_type=MEDIA_TYPES[wanted])


async def _streamed(
    request: Request, ticket: Ticket, texts: Texts, future: Future[Transcript]
) -> Response:
    """Return the answer with events, once there is a first text or a mistake."""
    future.add_done_callback(lambda _: texts.put(None))
    left = asyncio.create_task(disconnected(request))
    left.add_done_callback(lambda _: texts.put(None))
    try:
        async with asyncio.timeout(ticket.remaining):
            first = await texts.get()
        if future.done():
            future.result()  # A mistake is answered by its status, as without a stream.
        elif left.done():
            raise ServeError(499, "the client left")
    except BaseException:
        ticket.stop()
        left.cancel()
        raise

    async def events() -> AsyncIterator[str]:
        text = first
        try:
            while text is not None:
                yield event({"type": "transcript.text.delta", "delta": text})
                async with asyncio.timeout(ticket.remaining):
                    text = await texts.get()
            if future.done():
                done = future.result().text
                yield event({"type": "transcript.text.done", "text": done})
        except Exception as error:
            known = as_serve_error(error)
            if known is None:
                log_error(error)
                known = ServeError(500, "internal error", code="internal_error")
            yield event(known.body())
        finally:
            ticket.stop()
            left.cancel()

    return StreamingResponse(events(), media_type="text/event-stream")
