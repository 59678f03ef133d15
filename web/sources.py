"""Prints the hash of everything that the built web app is made of, see ``make web``.

The build records it in ``src/tynda/serve/web/sources.txt``, and a test compares it, so that nobody
forgets to build.
"""

import hashlib
from pathlib import Path

ROOT = Path(__file__).parents[1]
_OTHER_PROCESSORS = ("avx2", "avx512", "neon", "bindings")


def sources() -> list[Path]:
    """Return the files of the app, of the engine, and of the native code that it contains."""
    native = [
        path
        for path in (ROOT / "native" / "src").iterdir()
        if not any(name in path.stem for name in _OTHER_PROCESSORS)
    ]
    web = [
        path
        for folder in ("app", "engine/src")
        for path in (ROOT / "web" / folder).rglob("*")
        if path.is_file()
    ]
    fixed = ["native/CMakeLists.txt", "native/wasm/engine.cpp", "web/package-lock.json"]
    fixed.append("web/tsconfig.base.json")
    return sorted([*native, *web, *(ROOT / name for name in fixed)])


def digest() -> str:
    """Return the hash of the files' names and bytes."""
    found = hashlib.sha256()
    for path in sources():
        found.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()


if __name__ == "__main__":
    print(digest())
