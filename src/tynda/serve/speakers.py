"""People enrolled by a key's user, and whose voice a recording has."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, File, Form, Request, UploadFile
from numpy.typing import NDArray

from tynda.serve.access import authorize, service_of
from tynda.serve.errors import ServeError
from tynda.serve.fields import RESPONSES, Recording
from tynda.serve.people import samples_of, speakers_of
from tynda.serve.service import Service
from tynda.serve.uploads import KeyedRoute, UploadRoute, result_of, ticket_of
from tynda.speakers.profiles import Profile
from tynda.speakers.voices import Answer, Speakers

__all__ = ["router", "uploads"]

uploads = APIRouter(prefix="/v1/speakers", route_class=UploadRoute, tags=["speakers"])
router = APIRouter(prefix="/v1/speakers", route_class=KeyedRoute, tags=["speakers"])

_RESPONSES: dict[int | str, dict[str, Any]] = {
    status: about for status, about in RESPONSES.items() if status != 200
}
Floats = NDArray[np.float32]
Name = Annotated[str, Form(max_length=1000, description="The name of the person.")]
Recordings = Annotated[list[UploadFile], File(description="Recordings of one voice.")]


@uploads.post("", responses=_RESPONSES)
async def enrol(request: Request, file: Recordings, name: Name) -> dict[str, Any]:
    """Enrol a person with one or more recordings, or add them to those of before."""
    service, ticket = service_of(request), ticket_of(request)
    speakers = _speakers(request, service)
    files = [each.file.read() for each in file]

    def compute() -> dict[str, Any]:
        voices = [samples_of(service.decoder.decode(data, ticket), "file") for data in files]
        profile, twin = speakers().add(name, voices)
        return {**_described(profile), "same_voice_as": twin}

    return await result_of(request, ticket, service.work(compute, ticket))


@router.get("", responses=_RESPONSES)
def list_people(request: Request) -> dict[str, Any]:
    """List the people whom the key's user has enrolled, by name."""
    people = _speakers(request, service_of(request))().people()
    return {"object": "list", "data": [_described(each) for each in people]}


@router.delete("/{id_}", responses=_RESPONSES)
def remove(request: Request, id_: str) -> dict[str, Any]:
    """Delete a person's profile; nothing of it can be read again."""
    speakers = _speakers(request, service_of(request))()
    for profile in speakers.people():
        if _id_of(profile) == id_:
            speakers.remove(profile.name)
            return {"id": id_, "object": "speaker.deleted", "deleted": True}
    raise ServeError(404, "nobody is enrolled with this id", param="id", code="no_speaker")


@uploads.post("/identify", responses=_RESPONSES)
async def identify(request: Request, file: Recording) -> dict[str, Any]:
    """Say who of the enrolled people speaks in a recording, or that it is a stranger."""
    return await _answered(request, file, lambda speakers, voice: speakers.identify(voice))


@uploads.post("/verify", responses=_RESPONSES)
async def verify(request: Request, file: Recording, name: Name) -> dict[str, Any]:
    """Say whether one of the enrolled people speaks in a recording."""

    def answer(speakers: Speakers, voice: Floats) -> Answer:
        _check_enrolled(speakers, name)
        return speakers.verify(name, voice)

    return await _answered(request, file, answer)


async def _answered(
    request: Request, file: UploadFile, answer: Callable[[Speakers, Floats], Answer]
) -> dict[str, Any]:
    service, ticket = service_of(request), ticket_of(request)
    speakers, data = _speakers(request, service), file.file.read()

    def compute() -> dict[str, Any]:
        found = answer(speakers(), samples_of(service.decoder.decode(data, ticket), "file"))
        return {
            "object": "speaker.answer",
            "answer": found.kind,
            "name": found.name,
            "probability": None if found.probability is None else round(found.probability, 4),
            "seconds": round(found.seconds, 3),
        }

    return await result_of(request, ticket, service.work(compute, ticket))


def _speakers(request: Request, service: Service) -> Callable[[], Speakers]:
    """Return the function that opens the people of a request's user."""
    owner = authorize(request, "transcribe", is_counted=False).owner
    return lambda: speakers_of(service.store.people, owner, service.settings.threads)


def _check_enrolled(speakers: Speakers, name: str) -> None:
    if name not in [each.name for each in speakers.people()]:
        raise ServeError(404, "nobody is enrolled with this name", param="name", code="no_speaker")


def _id_of(profile: Profile) -> str:
    """Return a person's id, since a name in a path would be in the log."""
    return hashlib.sha256(profile.name.encode()).hexdigest()[:16]


def _described(profile: Profile) -> dict[str, Any]:
    return {
        "id": _id_of(profile),
        "object": "speaker",
        "name": profile.name,
        "recordings": profile.recordings,
        "seconds": round(profile.seconds, 3),
    }
