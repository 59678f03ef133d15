"""The page for whoever runs the server: jobs, model, storage, latency and memory, but no texts."""

from __future__ import annotations

import base64
import hashlib
import re
import statistics
import time
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from tynda.serve.access import authorize, service_of

__all__ = ["router"]

router = APIRouter(tags=["admin"])

_PAGE = Path(__file__).with_name("admin.html").read_text("utf-8")
_LATEST = 50
_STARTED = time.time()
_ERRORS: dict[int | str, dict[str, Any]] = {
    401: {"description": "There is no valid key."},
    403: {"description": "The key lacks the scope."},
    429: {"description": "The key's rate is exceeded."},
    503: {"description": "The store does not answer."},
}


def _policy() -> str:
    """Return the policy by which a browser runs the page's own script and nothing else (Content
    Security Policy Level 3)."""

    def known(tag: str) -> str:
        (found,) = re.findall(f"<{tag}>(.*?)</{tag}>", _PAGE, re.DOTALL)
        digest = hashlib.sha256(found.encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    return (
        f"default-src 'none'; script-src {known('script')}; style-src {known('style')}; "
        "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    )


_HEADERS = {"Content-Security-Policy": _policy(), "Cache-Control": "no-store"}


@router.get("/admin", response_class=HTMLResponse)
async def page() -> HTMLResponse:
    """Return the page, which asks for a key and has no data of its own."""
    return HTMLResponse(_PAGE, headers=_HEADERS)


@router.get("/v1/admin/state", responses=_ERRORS)
def state(request: Request) -> dict[str, Any]:
    """Return what the page shows; the key needs the scope admin."""
    authorize(request, "admin")
    service = service_of(request)
    counts = service.store.counts()
    latencies = sorted(service.metrics.latencies)
    return {
        "model": {"names": service.names, "loaded": service.model.is_loaded},
        "requests": {
            "held": len(service.slots),
            "running": service.workers.running,
            "limit": service.slots.limit,
        },
        "live_sessions": {
            "open": len(service.live_slots),
            "limit": service.live_slots.limit,
        },
        "jobs": {name: count for name, (count, _) in sorted(counts.items())},
        "storage_bytes": sum(size for _, size in counts.values()),
        "latency": {
            "count": len(latencies),
            "median": statistics.median(latencies) if latencies else None,
            "p95": latencies[int(0.95 * (len(latencies) - 1))] if latencies else None,
        },
        "memory_bytes": service.metrics.memory(),
        "started_at": int(_STARTED),
        "latest": [
            {
                "id": row.id,
                "user": row.owner.partition(":")[2],
                "status": row.state,
                "created_at": int(row.created),
                "bytes": row.size,
                "seconds_done": round(row.progress, 3),
            }
            for row in service.store.latest(_LATEST)
        ],
    }
