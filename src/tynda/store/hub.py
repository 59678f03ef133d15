"""Models of the Hugging Face hub: pulled once into the hub's own cache, and read from there.

A finished pull is recorded in tynda's cache folder (``tynda/hub``), so that finding it again needs
neither the network nor ``huggingface_hub``. This library is imported for pulls only.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tynda.errors import TyndaError
from tynda.files import write_whole

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

__all__ = ["UnreachableError", "cached", "is_name", "pull", "pulled", "remove"]

_NAME = re.compile(r"(?P<repo>[a-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>\w[\w./-]*))?", re.A | re.I)
_SECONDS = 30


class UnreachableError(TyndaError):
    """The hub cannot be reached: no network, or ``HF_HUB_OFFLINE`` is set."""


def is_name(name: str) -> bool:
    """Return whether a name may be ``owner/name`` or ``owner/name@revision``, not a file path."""
    return bool(_NAME.fullmatch(name)) and ".." not in name and not name.endswith(".safetensors")


def cached(name: str) -> Path | None:
    """Return the folder of an earlier pull, if all its files still exist."""
    note = _note(name)
    folder = Path(note.get("folder", ""))
    sizes = note.get("files", {})
    return folder if sizes and all(_size(folder / f) == n for f, n in sizes.items()) else None


def pulled() -> dict[str, Path]:
    """Return name -> folder of all earlier pulls, including ones that were damaged since."""
    try:
        notes = [_read(path) for path in sorted(_notes().glob("*.json"))]
    except (OSError, RuntimeError):  # for the reasons in `library.cached`
        return {}
    folders = {note["name"]: Path(note["folder"]) for note in notes if note}
    return {name: folder for name, folder in folders.items() if folder.exists()}


def pull(name: str, languages: Sequence[str] = ()) -> Path:
    """Download new and missing files of a model, and check all files; return its folder.

    For an MMS model, the adapters of ``languages`` are included. Raises `UnreachableError`;
    `TyndaError` when there is no such model, the user has no access, tynda cannot read it, disk
    space is insufficient, or a file arrived damaged.
    """
    repo, revision = _parse(name)
    _check_environment()
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]  # of its client

    from tynda.store.huggingface import ADAPTER

    try:
        info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=_SECONDS)
        files = _wanted(name, info, [ADAPTER.format(language) for language in languages])
        _fetch_large(repo, info.sha, [file for file in files if file.lfs])
        names = [file.rfilename for file in files]
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=names))
    except (OSError, ValueError, HTTPError) as error:
        raise _explain(name, error) from error
    _check(name, folder, files)
    earlier = _note(name)
    kept = earlier["files"] if earlier.get("folder") == str(folder) else {}
    sizes = {file: size for file in {*kept, *names} if (size := _size(folder / file)) is not None}
    note = {"name": name, "folder": str(folder), "files": sizes}
    try:
        _notes().mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _explain(name, error) from None
    write_whole(_note_path(name), json.dumps(note).encode())
    return folder


def remove(name: str) -> None:
    """Delete an earlier pull from the disk. Raises `TyndaError` when there is none."""
    folder = pulled().get(name)
    if folder is None:
        raise TyndaError(f"{name} has not been pulled")
    import shutil

    _check_environment()
    from huggingface_hub import scan_cache_dir

    store = folder.parents[1]
    try:
        cache = scan_cache_dir(store.parent)
        if own := frozenset(repo for repo in cache.repos if repo.repo_path == store):
            replace(cache, repos=own).delete_revisions(folder.name).execute()
        else:  # the cache is damaged, and the scan does not list this repository
            shutil.rmtree(store)
    except OSError as error:
        raise _explain(name, error) from None
    _note_path(name).unlink(missing_ok=True)


def _check_environment() -> None:
    """Raise `TyndaError` where ``huggingface_hub`` cannot read an environment variable of its own.

    It reads them all when it is imported, its error does not name the variable, and it cannot be
    imported a second time after one.
    """
    for name in ("HF_HUB_DOWNLOAD_TIMEOUT", "HF_HUB_ETAG_TIMEOUT"):
        text = os.environ.get(name, "1")
        if not re.fullmatch(r"\s*[0-9]{1,6}\s*", text, re.ASCII):
            raise TyndaError(f"{name} must be a whole number of seconds, not {text!r}: unset it")
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not _is_address(endpoint):
        raise TyndaError(
            f"HF_ENDPOINT must be an address, https://HOST, not {endpoint!r}: unset it"
        )


def _is_address(text: str) -> bool:
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(text)
        has_host = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, or a bad host in brackets
        return False
    return has_host and re.fullmatch(r"https?://[!-~]+", text) is not None


def _parse(name: str) -> tuple[str, str | None]:
    match = _NAME.fullmatch(name)
    if match is None or not is_name(name):
        raise TyndaError(f"{name!r} is not a name on the hub: owner/name or owner/name@revision")
    return match["repo"], match["revision"]


def _notes() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tynda") / "hub"


def _note_path(name: str) -> Path:
    from urllib.parse import quote

    return _notes() / f"{quote(name, safe='')}.json"


def _note(name: str) -> dict[str, Any]:
    return _read(_note_path(name))


def _read(path: Path) -> dict[str, Any]:
    try:
        note = json.loads(path.read_text("utf-8"))
        return {"name": str(note["name"]), "folder": note["folder"], "files": dict(note["files"])}
    except (OSError, ValueError, TypeError, KeyError):  # a damaged note: the model is pulled again
        return {}


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def _wanted(name: str, info: ModelInfo, adapters: Collection[str]) -> list[RepoSibling]:
    """Return the files to download, after checking that tynda can read such a model."""
    from tynda.store.huggingface import CONVERT, FILES, PICKLED, check_kind

    there = {file.rfilename: file for file in info.siblings or []}
    if missing := sorted(set(adapters) - set(there)):
        raise TyndaError(f"{name} has no {missing[0]}: it does not know that language")
    wanted = [file for file in there if any(fnmatchcase(file, pattern) for pattern in FILES)]
    if "model.safetensors" in wanted:  # shards are not read if there is a single file
        wanted = [file for file in wanted if not file.startswith("model.safetensors.")]
        wanted = [file for file in wanted if not file.startswith("model-")]
    if not {"model.safetensors", "model.safetensors.index.json"} & set(wanted):
        if any(file in there for file in PICKLED):
            folder = name.partition("@")[0].rpartition("/")[2]
            raise TyndaError(
                f"{name} has pickled weights only: loading them could run any code. If you trust "
                f"them, download and convert them: hf download {name.partition('@')[0]} "
                f"--local-dir {folder} && {CONVERT}{folder}"
            )
        wanted = []
    if "config.json" not in wanted:
        raise TyndaError(
            f"{name} has no files that tynda reads: config.json and model.safetensors, whole or "
            "in shards, are expected"
        )
    kind = (info.config or {}).get("model_type")
    if kind is not None:  # checked before the download of gigabytes
        check_kind(name, kind)
    return [there[file] for file in [*wanted, *adapters]]


def _fetch_large(repo: str, commit: str | None, files: Sequence[RepoSibling]) -> None:
    """Download LFS files into the hub's cache, and resume earlier incomplete downloads.

    ``snapshot_download`` then finds the files there. It discards incomplete files itself (seen in
    huggingface_hub 2.4), so that a large model could never be downloaded over a bad connection.
    """
    import shutil

    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import (  # type: ignore[attr-defined]  # exported lazily
        WeakFileLock,
        build_hf_headers,
    )

    cache = Path(constants.HF_HUB_CACHE)
    store = repo_folder_name(repo_id=repo, repo_type="model")
    blobs, locks = cache / store / "blobs", cache / ".locks" / store
    for folder in (blobs, locks):
        folder.mkdir(parents=True, exist_ok=True)
    targets = {file.rfilename: blobs / file.lfs.sha256 for file in files if file.lfs}
    parts = {f: blob.with_name(f"{blob.name}.tynda.incomplete") for f, blob in targets.items()}
    missing = [file for file in files if not targets[file.rfilename].exists()]
    need = sum((file.size or 0) - (_size(parts[file.rfilename]) or 0) for file in missing)
    if need > (free := shutil.disk_usage(blobs).free):
        raise TyndaError(f"{repo} needs {need:,} bytes more in {cache}; {free:,} are free")
    for file in missing:
        blob, part = targets[file.rfilename], parts[file.rfilename]
        with WeakFileLock(locks / f"{blob.name}.lock"):  # the lock that huggingface_hub uses
            if blob.exists():  # another process has downloaded it meanwhile
                continue
            with part.open("ab") as out:
                if file.size is not None and out.tell() > file.size:
                    out.truncate(0)
                http_get(
                    hf_hub_url(repo, file.rfilename, revision=commit),
                    out,
                    resume_size=part.stat().st_size,
                    headers=build_hf_headers(),
                    expected_size=file.size,
                    displayed_filename=file.rfilename,
                )
            part.replace(blob)


def _check(name: str, folder: Path, files: Sequence[RepoSibling]) -> None:
    """Raise `TyndaError` if files differ from those on the hub, after removing them."""
    broken = [file.rfilename for file in files if not _whole(folder / file.rfilename, file)]
    for file in broken:
        (folder / file).resolve().unlink(missing_ok=True)  # the blob behind the link
        (folder / file).unlink(missing_ok=True)
    if broken:
        raise TyndaError(
            f"{', '.join(broken)} of {name} arrived damaged or not at all: "
            f"pull it again with `tynda models pull {name}`"
        )


def _whole(path: Path, file: RepoSibling) -> bool:
    import hashlib

    size = _size(path)
    if size is None or (file.size is not None and size != file.size):
        return False
    with path.open("rb") as stream:
        if file.lfs:
            return hashlib.file_digest(stream, "sha256").hexdigest() == file.lfs.sha256
        if file.blob_id and len(file.blob_id) == 40:  # git's SHA-1
            return hashlib.sha1(b"blob %d\0" % size + stream.read()).hexdigest() == file.blob_id
    return True


def _explain(name: str, error: BaseException) -> TyndaError:
    """Convert an error of huggingface_hub or the file system to a message for the user."""
    from huggingface_hub import constants, errors

    repo, revision = _parse(name)
    if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__:
        error = error.__cause__
    if isinstance(error, errors.HFValidationError):
        return TyndaError(f"{name!r} is not a name on the hub: owner/name or owner/name@revision")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return UnreachableError("HF_HUB_OFFLINE is set, so the hub cannot be used")
    if isinstance(error, errors.GatedRepoError):
        page = f"{constants.ENDPOINT}/{repo}"
        return TyndaError(f"{name} is gated: accept its terms at {page} and set HF_TOKEN")
    if isinstance(error, errors.RepositoryNotFoundError):
        return TyndaError(
            f"there is neither a file nor a model on the hub named {name}; if it is private, "
            "set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return TyndaError(f"{repo} has no revision {revision or 'main'}")
    if isinstance(error, errors.HfHubHTTPError):
        code = error.response.status_code if error.response is not None else "?"
        if code in (401, 403):
            return TyndaError(f"{name} is not open to you (HTTP {code}): set HF_TOKEN")
        return UnreachableError(f"the hub answers with HTTP {code}: try again later")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TyndaError(f"no disk space for {name} in {constants.HF_HUB_CACHE}: free some")
    if isinstance(error, OSError) and error.filename is not None:
        return TyndaError(f"cannot write {error.filename} ({error.strerror})")
    return UnreachableError(
        f"the hub cannot be reached ({type(error).__name__}): check the network"
    )
