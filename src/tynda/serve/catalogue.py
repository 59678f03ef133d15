"""OpenAI's list of models, and what tells others about the server's state."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from tynda.serve.access import authorize, service_of
from tynda.serve.errors import ServeError
from tynda.serve.service import Service

__all__ = ["router"]

router = APIRouter()

_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "There is no valid key."},
    429: {"description": "The key's rate is exceeded."},
}


def _described(service: Service, name: str) -> dict[str, Any]:
    created = service.model.loaded_at
    return {"id": name, "object": "model", "created": created, "owned_by": "tynda"}


@router.get("/v1/models", responses=_ERRORS, tags=["models"])
async def models(request: Request) -> dict[str, Any]:
    """List the model under each of its names."""
    authorize(request)
    service = service_of(request)
    return {"object": "list", "data": [_described(service, name) for name in service.names]}


@router.get(
    "/v1/models/{name:path}",
    responses={**_ERRORS, 404: {"description": "There is no such model."}},
    tags=["models"],
)
async def model(request: Request, name: str) -> dict[str, Any]:
    """Describe the model with this name."""
    authorize(request)
    service = service_of(request)
    if name not in service.names:
        raise ServeError(404, "there is no such model", param="model", code="no_model")
    return _described(service, name)


@router.get("/health/live", tags=["state"])
async def live() -> dict[str, str]:
    """Answer that the process runs."""
    return {"status": "ok"}


@router.get("/health/ready", responses={503: {"description": "It does not."}}, tags=["state"])
async def ready(request: Request) -> Response:
    """Answer whether the server accepts recordings now."""
    service = service_of(request)
    is_full = len(service.slots) >= service.slots.limit
    is_ready = not service.is_closing and not is_full
    status = "ok" if is_ready else "closing" if service.is_closing else "full"
    return JSONResponse({"status": status}, 200 if is_ready else 503)


@router.get(
    "/metrics",
    responses={**_ERRORS, 403: {"description": "The key lacks the scope."}},
    response_class=Response,
    tags=["state"],
)
async def metrics(request: Request) -> Response:
    """Return the server's numbers for Prometheus; the key needs the scope metrics."""
    authorize(request, "metrics")
    text = service_of(request).metrics.text()
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
