"""The commands that install what tynda needs for some of its functions."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

__all__ = ["install"]


def install(extra: str) -> str:
    """Return a command that installs an extra of ``pyproject.toml``, to follow a colon.

    It names the clone or the wheel from which tynda was installed, where that is still there, and
    else the packages themselves: tynda may be in no index.
    """
    from importlib.metadata import PackageNotFoundError, distribution  # slow, and rarely needed

    try:
        tynda = distribution("tynda")
    except PackageNotFoundError:  # run from its source
        return f"install the packages of [{extra}] in its pyproject.toml"
    origin = _origin(tynda)
    if origin is not None and origin[0].exists():
        path, editable = origin
        return f"pip install {'-e ' if editable else ''}{shlex.quote(f'{path}[{extra}]')}"
    return f"pip install {' '.join(map(shlex.quote, _packages(tynda, extra)))}"


def _origin(tynda: Distribution) -> tuple[Path, bool] | None:
    """Return the folder or file of an installation, and whether it is editable; None where it was
    installed from an index, or from a URL elsewhere."""
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    try:
        # PEP 610: pip writes the file where it was given a folder, a file or a URL.
        source = json.loads(tynda.read_text("direct_url.json") or "{}")
        url = urlsplit(source["url"])
        editable = bool(source.get("dir_info", {}).get("editable"))
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return (Path(url2pathname(url.path)), editable) if url.scheme == "file" else None


def _packages(tynda: Distribution, extra: str) -> list[str]:
    """Return the requirements of an extra, with those of extras that it includes."""
    packages: list[str] = []
    for line in tynda.requires or []:
        requirement, _, marker = line.partition(";")
        if not re.search(rf"extra *== *['\"]{re.escape(extra)}['\"]", marker):
            continue
        if included := re.fullmatch(r"tynda\[(.*)\]", requirement.strip()):
            for name in included[1].split(","):
                packages += _packages(tynda, name.strip())
        else:
            packages.append(requirement.strip())
    return packages
