"""The web app, which recognises speech in the browser: its files, and the models that it downloads.

Nothing here needs a key. ``make web`` builds the files from ``web/`` and ``native/``.
"""

from __future__ import annotations

import atexit
import gzip
import hashlib
import threading
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import FileResponse, Response

import tynda
from tynda.archive import SUFFIX
from tynda.export import export_archive
from tynda.files import temporary_folder
from tynda.heads import head_of
from tynda.heads.ctc.chunks import MAX_SECONDS
from tynda.models import family
from tynda.serve.access import service_of
from tynda.serve.errors import ServeError
from tynda.store import library
from tynda.store.checkpoint import Checkpoint, read_header

__all__ = ["export_for_page", "router"]

router = APIRouter(include_in_schema=False)

_FOLDER = Path(__file__).with_name("web")
_MODELS = {"sentences-en": "small", "whisper-tiny.en": "accurate", "digits-en": "digits"}
"""Names and kinds of the bundled models that a page may download, the default one first."""
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
# The policy lets a browser load and run (Content Security Policy Level 3) files of this server and
# the recordings that the page itself has made.
_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; "
    "img-src 'self'; media-src blob:; connect-src 'self'; worker-src 'self'; "
    "manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
# A page that is isolated from all others (HTML, 7.1.3) may use several threads.
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _POLICY,
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self)",
    "Vary": "Accept-Encoding",
    "X-Content-Type-Options": "nosniff",
}
_FOREVER = {"Cache-Control": "public, max-age=31536000, immutable"}


@cache
def _file(name: str) -> tuple[bytes, bytes, str]:
    """Return the bytes of a file, the same compressed, and their entity tag."""
    data = (_FOLDER / name).read_bytes()
    return data, gzip.compress(data, 9, mtime=0), f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def _answer(request: Request, name: str) -> Response:
    data, packed, tag = _file(name)
    headers = _HEADERS | {"ETag": tag}
    if request.headers.get("If-None-Match") == tag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("Accept-Encoding", "") and len(packed) < len(data):
        data, headers = packed, headers | {"Content-Encoding": "gzip"}
    return Response(data, headers=headers, media_type=_TYPES[Path(name).suffix])


@router.get("/")
def page(request: Request) -> Response:
    """Return the app's page."""
    return _answer(request, "index.html")


def _add_route(name: str) -> None:
    @router.get(f"/{name}")
    def file(request: Request) -> Response:
        return _answer(request, name)


for _path in sorted(_FOLDER.rglob("*")):
    if _path.suffix in _TYPES:
        _add_route(_path.relative_to(_FOLDER).as_posix())


def export_for_page(model: Checkpoint, path: Path) -> None:
    """Write the file of a model that the page downloads.

    A CTC model takes pieces as long as those that `tynda transcribe` gives to it. Raises
    `TyndaError` as `export_archive` does.
    """
    export_archive(model, path, None if head_of(model.family).has_decoder else MAX_SECONDS)


class _Archives:
    """Models as the engine reads them, each of which is exported once, when it is asked for."""

    def __init__(self) -> None:
        self._lock, self._stack = threading.Lock(), ExitStack()
        self._folder = self._stack.enter_context(temporary_folder())
        atexit.register(self._stack.close)

    def find(self, name: str) -> Path:
        """Return the file of a model. Raises `TyndaError` where it cannot be exported."""
        path = self._folder / f"{name}{SUFFIX}"
        with self._lock:
            if not path.exists():
                export_for_page(library.load(library.bundled()[name]), path)
        return path


@cache
def _archives() -> _Archives:
    return _Archives()


@cache
def _version(name: str) -> str:
    """Return what changes with a model or with the engine that reads it."""
    data = library.bundled()[name].read_bytes() + f"{tynda.__version__} {MAX_SECONDS}".encode()
    return hashlib.sha256(data + _file("assets/engine.wasm")[2].encode()).hexdigest()[:16]


@router.get("/web/models.json")
def models(request: Request) -> list[dict[str, Any]]:
    """List the models: name, kind, languages, address, about how many bytes the download has, and
    the address of the commands that a CTC model knows."""
    grammar = service_of(request).page_grammar.version
    return [_described(name, grammar) for name in _MODELS]


def _described(name: str, grammar: str | None) -> dict[str, Any]:
    header, version = read_header(library.bundled()[name]), _version(name)
    knows = grammar is not None and not head_of(family(header.family)).has_decoder
    return {
        "name": name,
        "kind": _MODELS[name],
        "languages": header.languages,
        "url": f"/web/models/{name}{SUFFIX}?v={version}",
        "commands": f"/web/commands/{name}.json?v={version}{grammar}" if knows else None,
        "bytes": library.bundled()[name].stat().st_size,
    }


@router.get("/web/models/{file}")
def model(file: str) -> FileResponse:
    """Return an exported model as one file."""
    name = file.removesuffix(SUFFIX)
    if name not in _MODELS or name == file:
        raise ServeError(404, "there is no such model", code="no_model")
    # Equal models make equal archives, so that a download goes on though the server was restarted.
    headers = _FOREVER | {"ETag": f'"{_version(name)}"'}
    return FileResponse(_archives().find(name), headers=headers, media_type="application/gzip")


@router.get("/web/commands/{file}")
def commands(request: Request, file: str) -> Response:
    """Return what a model knows of the grammar, as a file of `tynda commands --export`."""
    name = file.removesuffix(".json")
    found = None
    if name in _MODELS and name != file:
        found = service_of(request).page_grammar.find(name)
    if found is None:
        raise ServeError(404, "there are no such commands", code="no_commands")
    return Response(found, headers=_FOREVER, media_type="application/json")
