"""Long recordings as jobs: accepted at once, transcribed by and by, kept until they are deleted."""

from __future__ import annotations

import unicodedata
from contextlib import suppress
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from tynda.manifest import MAX_TEXT
from tynda.serve.access import authorize, service_of
from tynda.serve.answers import MEDIA_TYPES, answer
from tynda.serve.errors import ServeError, invalid_value
from tynda.serve.export import archive
from tynda.serve.fields import (
    Granularities,
    Keywords,
    Language,
    ModelName,
    SpeakerCount,
    Temperature,
    Text,
    check_granularities,
    decoder_options,
    format_of,
    recording_of,
    word_times,
)
from tynda.serve.fields import Recording as Upload
from tynda.serve.recognition import check_options
from tynda.serve.records import from_record
from tynda.serve.service import Service
from tynda.serve.store.store import Arriving, TooMany
from tynda.serve.store.tables import CANCELLED, DONE, FAILED, Recording
from tynda.serve.uploads import KeyedRoute, UploadRoute
from tynda.serve.vault import VaultError

__all__ = ["exports", "router", "uploads"]

uploads = APIRouter(prefix="/v1/jobs", route_class=UploadRoute, tags=["jobs"])
router = APIRouter(prefix="/v1/jobs", route_class=KeyedRoute, tags=["jobs"])
exports = APIRouter(route_class=KeyedRoute, tags=["jobs"])

_RETRY_SECONDS = 60
_NO_TEXT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of characters, and ends of lines."""
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": about, "content": {"application/json": {}}}
    for status, about in {
        400: "A field is not valid.",
        401: "There is no valid key.",
        403: "The key lacks the scope.",
        404: "This key has no such job.",
        409: "The job is in another state.",
        413: "The recording is too large or too long.",
        429: "Too many jobs wait, or the key's rate is exceeded.",
        503: "The store or the model cannot be used.",
        504: "The request or the job took too long.",
    }.items()
}


class Correction(BaseModel):
    """A change of the text and the consent of a recording; each that is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    correction: Annotated[str | None, Field(max_length=MAX_TEXT)] = None
    """The text that was spoken; an empty one where nothing was."""
    consent: Annotated[bool | None, Field(strict=True)] = None
    """Whether models may learn from the recording."""


@uploads.post("", status_code=202, responses=_ERRORS)
async def create(
    request: Request,
    file: Upload,
    model: ModelName,
    language: Language = "",
    prompt: Text = "",
    keywords: Keywords = None,
    temperature: Temperature = 0.0,
    timestamp_granularities: Granularities = None,
    task: Annotated[Literal["transcribe", "translate"], Form()] = "transcribe",
    diarize: Annotated[bool, Form(description="Whether to find who said what.")] = False,
    speakers: SpeakerCount = None,
    id_: Annotated[str, Form(alias="id", pattern="^([0-9a-f]{32})?$")] = "",
) -> Response:
    """Accept a recording, which is transcribed as /v1/audio/transcriptions would.

    A client that does not know whether the job was accepted sends it again with the same ``id``.
    """
    service = service_of(request)
    key = authorize(request, "transcribe", is_counted=False)
    data = recording_of(service, file, model)
    options = decoder_options(language, prompt, temperature, keywords)
    if task == "translate":
        options["task"] = task
    if "word" in (timestamp_granularities or ()):
        options |= word_times(service)

    def accepted() -> dict[str, Any]:
        with service.model.use() as loaded:
            check_options(loaded, options)
            loaded.options(**options)
        asked: dict[str, Any] = {"options": options, "task": task, "model": model}
        if diarize:
            asked |= {"diarize": True, "speakers": speakers}
        row = service.store.accept(key.owner, data, asked, service.settings.max_jobs, id_)
        service.jobs.notify()
        return _described(service, row)

    try:
        body = await run_in_threadpool(accepted)
    except TooMany:
        raise ServeError(
            429,
            f"{service.settings.max_jobs} of your jobs wait: try again when one has finished",
            code="queue_full",
            headers={"Retry-After": str(_RETRY_SECONDS)},
        ) from None
    except Arriving:
        raise ServeError(
            409,
            "a job with this id arrives, is deleted, or is not yours: send it again by and by",
            param="id",
            code="job_arriving",
            headers={"Retry-After": str(_RETRY_SECONDS)},
        ) from None
    return JSONResponse(body, 202, {"Location": f"/v1/jobs/{body['id']}"})


@router.get("", responses=_ERRORS)
def list_jobs(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    after: Annotated[str, Query(max_length=100)] = "",
) -> dict[str, Any]:
    """List the jobs of the key's user, the newest first; ``after`` is the last id of the page
    before."""
    service, owner = _authorized(request)
    rows = service.store.list(owner, limit + 1, after)
    data = [_described(service, row) for row in rows[:limit]]
    return {"object": "list", "data": data, "has_more": len(rows) > limit}


@router.get("/{id_}", responses=_ERRORS)
def show(request: Request, id_: str) -> dict[str, Any]:
    """Describe a job, with its correction."""
    service, row = _own(request, id_)
    return _whole(service, row)


@router.patch("/{id_}", responses=_ERRORS)
def correct(request: Request, id_: str, given: Correction) -> dict[str, Any]:
    """Keep the corrected text of a recording, and whether models may learn from it."""
    service, row = _own(request, id_)
    if any(unicodedata.category(x) in _NO_TEXT for x in given.correction or ""):
        raise invalid_value("correction must be one line without control characters", "correction")
    if not service.store.correct(row, given.correction, given.consent):
        raise ServeError(409, "the job went on meanwhile: send it again", code="job_changed")
    return _whole(service, row)


@router.post("/{id_}/cancel", responses=_ERRORS)
def cancel(request: Request, id_: str) -> dict[str, Any]:
    """Cancel a job that has not finished; its recording is kept as that of others."""
    service, row = _own(request, id_)
    if not service.store.cancel(row.owner, id_):
        raise ServeError(409, f"the job is {row.state}", code="job_finished")
    service.jobs.stop(id_)
    return _described(*_own(request, id_))


@router.delete("/{id_}", responses=_ERRORS)
def delete(request: Request, id_: str) -> dict[str, Any]:
    """Delete a recording with its texts, and its key first; a job that runs is cancelled."""
    service, row = _own(request, id_)
    service.store.delete(row.owner, id_)
    service.jobs.stop(id_)
    return {"id": id_, "object": "job.deleted", "deleted": True}


@router.get("/{id_}/result", responses=_ERRORS, response_class=Response)
def result(
    request: Request,
    id_: str,
    response_format: Annotated[str, Query(max_length=32)] = "json",
    timestamp_granularities: Annotated[
        list[Literal["word", "segment"]] | None, Query(alias="timestamp_granularities[]")
    ] = None,
) -> Response:
    """Return what /v1/audio/transcriptions would have answered, also where that is an error."""
    service, row = _own(request, id_)
    wanted = format_of(response_format)
    check_granularities(timestamp_granularities, wanted)
    if row.state not in (DONE, FAILED):
        code = "job_cancelled" if row.state == CANCELLED else "job_not_finished"
        raise ServeError(409, f"the job is {row.state}: it has no result", code=code)
    found = service.store.result(row)
    if found is None:
        raise ServeError(500, "the job's key was changed: nothing can be read", code="damaged")
    if "error" in found:
        error = found["error"]
        raise ServeError(
            error["status"], error["message"], param=error["param"], code=error["code"]
        )
    asked = service.store.request(row)
    if wanted == "diarized_json" and not asked.get("diarize"):
        raise invalid_value(
            "the job was created without diarize: it does not know who said what", "response_format"
        )
    body = answer(
        from_record(found["transcript"]),
        wanted,
        set(timestamp_granularities or ["segment"]),
        asked["task"],
    )
    return Response(body, media_type=MEDIA_TYPES[wanted])


@router.get("/{id_}/recording", responses=_ERRORS, response_class=Response)
def recording(request: Request, id_: str) -> Response:
    """Return the recording, byte for byte as it was sent."""
    service, row = _own(request, id_)
    headers = {"Content-Disposition": f'attachment; filename="{id_}"'}
    audio = service.store.audio(row)
    return Response(audio, media_type="application/octet-stream", headers=headers)


@exports.get("/v1/export", responses=_ERRORS, response_class=Response)
def export(request: Request) -> Response:
    """Return all recordings of the key's user with their texts, as a ZIP."""
    service, owner = _authorized(request)
    headers = {"Content-Disposition": 'attachment; filename="tynda.zip"'}
    pieces = archive(service.store, owner)
    return StreamingResponse(pieces, media_type="application/zip", headers=headers)


def _authorized(request: Request) -> tuple[Service, str]:
    key = authorize(request, "transcribe", is_counted=False)
    return service_of(request), key.owner


def _own(request: Request, id_: str) -> tuple[Service, Recording]:
    """Return the service and a job of the key's user; another user's job is not there."""
    service, owner = _authorized(request)
    row = service.store.find(owner, id_)
    if row is None:
        raise ServeError(404, "there is no such job", param="id", code="no_job")
    return service, row


def _described(service: Service, row: Recording) -> dict[str, Any]:
    """Return a job without its texts; times are seconds since 1970, or of audio."""
    error = corrected = None
    with suppress(VaultError):  # The text of a job that was changed is not known.
        corrected = service.store.correction(row)["text"] is not None
    if row.state == FAILED:
        try:
            found = (service.store.result(row) or {}).get("error", {})
        except VaultError as damage:
            found = {"message": str(damage), "code": "damaged"}
        error = {name: found.get(name) for name in ("message", "param", "code")}
    return {
        "id": row.id,
        "object": "job",
        "status": row.state,
        "created_at": int(row.created),
        "finished_at": None if row.finished is None else int(row.finished),
        "expires_at": None if row.expires is None else int(row.expires),
        "bytes": row.size,
        "seconds_done": round(row.progress, 3),
        "seconds": None if row.duration is None else round(row.duration, 3),
        "error": error,
        "corrected": corrected,
        "consent": row.consented is not None,
    }


def _whole(service: Service, row: Recording) -> dict[str, Any]:
    return {**_described(service, row), "correction": service.store.correction(row)["text"]}
