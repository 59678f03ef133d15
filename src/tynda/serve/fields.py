"""The fields of a request with a recording, and what they mean for the decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from fastapi import File, Form, UploadFile

from tynda.serve.answers import FORMATS, Format
from tynda.serve.errors import ServeError, invalid_value
from tynda.serve.service import Service

__all__ = [
    "MAX_SPEAKERS",
    "RESPONSES",
    "Answer",
    "Granularities",
    "Keywords",
    "Language",
    "ModelName",
    "Recording",
    "SpeakerCount",
    "Temperature",
    "Text",
    "check_granularities",
    "decoder_options",
    "format_of",
    "recording_of",
    "unsupported",
    "word_times",
]

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
Language = Annotated[str, Form(max_length=32)]
Text = Annotated[str, Form(max_length=100_000)]
Keywords = Annotated[list[str] | None, Form(alias="keywords[]")]
Granularities = Annotated[
    list[Literal["word", "segment"]] | None, Form(alias="timestamp_granularities[]")
]
Temperature = Annotated[float, Form(ge=0, le=1)]
MAX_SPEAKERS = 30
SpeakerCount = Annotated[
    int | None,
    Form(ge=1, le=MAX_SPEAKERS, description="The number of speakers, where it is known."),
]
Answer = Annotated[str, Form(description=f"One of {', '.join(FORMATS)}.")]


def unsupported(param: str, what: str) -> ServeError:
    """Return the error for a field that no model supports."""
    message = f"this server does not support {what} ({param})"
    return ServeError(400, message, param=param, code="unsupported_value")


def format_of(name: str) -> Format:
    """Return the response format with a name. Raises `ServeError` where there is none."""
    for known in FORMATS:
        if name == known:
            return known
    raise invalid_value(f"response_format must be one of {', '.join(FORMATS)}", "response_format")


def decoder_options(
    language: str, prompt: str, temperature: float, keywords: Sequence[str] | None = None
) -> dict[str, Any]:
    """Return the decoder's options; at temperature 0 they are those of the command line, which
    raise it where a text fails, as OpenAI documents it."""
    return {
        **({"language": language} if language else {}),
        **({"initial_prompt": prompt} if prompt else {}),
        **({"temperature": (temperature,)} if temperature else {}),
        **({"hotwords": tuple(keywords)} if keywords else {}),
    }


def word_times(service: Service) -> dict[str, Any]:
    """Return the option for word times where the model has it; others always give them."""
    return {"word_timestamps": True} if service.model.has("word_timestamps") else {}


def check_granularities(asked: Sequence[str] | None, wanted: Format) -> None:
    """Raise `ServeError` for granularities of times in a format without them."""
    if asked and wanted != "verbose_json":
        raise invalid_value(
            "timestamp_granularities[] needs the response_format verbose_json",
            "timestamp_granularities[]",
        )


def recording_of(service: Service, file: UploadFile, model: str) -> bytes:
    """Return the bytes of an uploaded recording. Raises `ServeError` where it is too large, and
    where there is no such model."""
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
    return data
