"""OpenAI's audio API: transcriptions and translations of recordings."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import Future
from typing import Annotated, Any, Literal

from fastapi import APIRouter, File, Form, Request, UploadFile
from fastapi.responses import Response, StreamingResponse

from tynda.serve.access import service_of
from tynda.serve.answers import FORMATS, MEDIA_TYPES, Format, answer, event
from tynda.serve.errors import ServeError, as_serve_error
from tynda.serve.logs import log_error
from tynda.serve.texts import Texts
from tynda.serve.uploads import UploadRoute, disconnected, result_of, ticket_of
from tynda.serve.workers import Ticket
from tynda.transcript import Transcript

__all__ = ["router"]

router = APIRouter(prefix="/v1/audio", route_class=UploadRoute, tags=["audio"])

RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The text, in the response format.",
        "content": {
            "application/json": {},
            "text/plain": {},
            "text/vtt": {},
            "application/x-subrip": {},
            "text/event-stream": {},
        },
    },
    **{
        status: {"description": about, "content": {"application/json": {}}}
        for status, about in {
            400: "The recording or a field is not valid.",
            401: "There is no valid key.",
            403: "The key lacks the scope.",
            404: "There is no such model.",
            413: "The recording is too large or too long.",
            429: "Too many requests wait, or the key's rate is exceeded.",
            503: "The model cannot be loaded.",
            504: "The request took too long.",
        }.items()
    },
}

Recording = Annotated[UploadFile, File(description="Audio or video, whatever its name.")]
ModelName = Annotated[str, Form(description="A name that /v1/models lists.")]
Text = Annotated[str, Form(max_length=100_000)]
Temperature = Annotated[float, Form(ge=0, le=1)]
Answer = Annotated[str, Form(description=f"One of {', '.join(FORMATS)}.")]


@router.post("/transcriptions", responses=RESPONSES, response_class=Response)
async def transcriptions(
    request: Request,
    file: Recording,
    model: ModelName,
    language: Annotated[str, Form(max_length=32)] = "",
    languages: Annotated[list[str] | None, Form(alias="languages[]")] = None,
    prompt: Text = "",
    keywords: Annotated[list[str] | None, Form(alias="keywords[]")] = None,
    response_format: Answer = "json",
    temperature: Temperature = 0.0,
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]] | None, Form(alias="timestamp_granularities[]")
    ] = None,
    stream: Annotated[bool, Form()] = False,
    include: Annotated[list[str] | None, Form(alias="include[]")] = None,
    chunking_strategy: Annotated[str, Form(max_length=1000)] = "auto",
    chunking_type: Annotated[str, Form(alias="chunking_strategy[type]", max_length=1000)] = "auto",
    known_speaker_names: Annotated[list[str] | None, Form(alias="known_speaker_names[]")] = None,
    known_speaker_references: Annotated[
        list[str] | None, Form(alias="known_speaker_references[]")
    ] = None,
) -> Response:
    """Transcribe a recording, as OpenAI's "Create transcription" documents it."""
    asked = language or ((languages or [""])[0] if len(languages or []) < 2 else None)
    if asked is None:
        raise _unsupported("languages[]", "several languages: name one, or none")
    if include:
        raise _unsupported("include[]", "log-probabilities of tokens")
    if {chunking_strategy, chunking_type} != {"auto"}:
        raise _unsupported("chunking_strategy", 'chunks other than "auto"')
    if known_speaker_names or known_speaker_references:
        raise _unsupported("known_speaker_names[]", "names of speakers")
    wanted = _format(response_format)
    granularities = set(timestamp_granularities or ["segment"])
    if timestamp_granularities and wanted != "verbose_json":
        raise ServeError(
            400,
            "timestamp_granularities[] needs the response_format verbose_json",
            param="timestamp_granularities[]",
            code="invalid_value",
        )
    if stream and wanted not in ("json", "text"):
        raise ServeError(
            400,
            "stream needs the response_format json or text",
            param="stream",
            code="invalid_value",
        )
    options = {
        **_options(asked, prompt, temperature),
        **({"hotwords": tuple(keywords)} if keywords else {}),
    }
    if "word" in granularities:
        options |= _word_times(request)
    return await _answered(request, file, model, options, wanted, granularities, stream=stream)


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
    options = {**_options("", prompt, temperature), "task": "translate"}
    return await _answered(
        request, file, model, options, _format(response_format), {"segment"}, task="translate"
    )


def _unsupported(param: str, what: str) -> ServeError:
    message = f"this server does not support {what} ({param})"
    return ServeError(400, message, param=param, code="unsupported_value")


def _format(name: str) -> Format:
    for known in FORMATS:
        if name == known:
            return known
    raise ServeError(
        400,
        f"response_format must be one of {', '.join(FORMATS)}",
        param="response_format",
        code="invalid_value",
    )


def _options(language: str, prompt: str, temperature: float) -> dict[str, Any]:
    """Return the decoder's options; at temperature 0 they are those of the command line, which
    raise it where a text fails, as OpenAI documents it."""
    return {
        **({"language": language} if language else {}),
        **({"initial_prompt": prompt} if prompt else {}),
        **({"temperature": (temperature,)} if temperature else {}),
    }


def _word_times(request: Request) -> dict[str, Any]:
    """Return the option for word times where the model has it; others always give them."""
    return {"word_timestamps": True} if service_of(request).model.has("word_timestamps") else {}


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
) -> Response:
    service = service_of(request)
    if model not in service.names:
        raise ServeError(
            404, "there is no such model: /v1/models lists them", param="model", code="no_model"
        )
    data = file.file.read()
    if len(data) > service.settings.max_bytes:
        raise ServeError(
            413,
            f"the recording is larger than {service.settings.max_bytes} bytes: send it in parts, "
            "or compressed",
            param="file",
            code="file_too_large",
        )
    ticket = ticket_of(request)
    if stream:
        texts = Texts()
        future = service.submit(data, options, ticket, texts.put)
        return await _streamed(request, ticket, texts, future)
    transcript = await result_of(request, ticket, service.submit(data, options, ticket))
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
