"""The environment of a measurement: the machine, its load, the libraries."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from tynda.compile import native
from tynda.compile.engine import processors

__all__ = ["Watch", "describe", "digest", "library_version", "model_digest", "noise", "virtual"]

LIBRARIES = (
    *("tynda", "numpy", "torch", "transformers", "faster-whisper", "ctranslate2", "pywhispercpp"),
    *("onnxruntime", "openvino", "nncf", "sherpa-onnx", "codecarbon", "tokenizers"),
)
_FLAGS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "asimd", "asimddp", "i8mm", "bf16", "sve"),
)
BUSY = 0.1
"""Maximum share of the processors used by other processes before a row is marked noisy."""
SPREAD = 0.2
"""Maximum interquartile range over the median before a row is marked noisy."""


def describe() -> dict[str, Any]:
    """Describe this machine and its libraries, always equally, so that rows can share it."""
    cpu = _cpu()
    found: dict[str, Any] = {
        "processor": cpu["model"],
        "flags": cpu["flags"],
        "processors": processors(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "turbo_off": _read("/sys/devices/system/cpu/intel_pstate/no_turbo"),
        "memory": psutil.virtual_memory().total,
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": platform.python_version(),
        "instruction_sets": native.instruction_sets() if native.available() else [],
        "libraries": {name: v for name in LIBRARIES if (v := library_version(name))},
        "gpu": _gpu(),
    }
    return found


def virtual() -> bool:
    """Return whether this is a virtual machine, according to its processor's flags."""
    try:
        return " hypervisor" in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def digest(values: Any) -> str:
    """Return a short hash of JSON-able values."""
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def model_digest(path: Path) -> str:
    """Return the SHA-256 of a model's file, or of the files in its folder with their names."""
    found = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        found.update(file.relative_to(path).as_posix().encode() if path.is_dir() else b"")
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                found.update(block)
    return found.hexdigest()[:16]


class Watch:
    """Measures how much of the processors other processes use."""

    def __init__(self) -> None:
        self._started = self._now()

    def busy(self) -> float:
        """Return the share of all processors, since this object was created, that other programs
        and other virtual machines on the same hardware (steal) used."""
        total, idle, own = (b - a for a, b in zip(self._started, self._now(), strict=True))
        return max(total - idle - own, 0.0) / total if total > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        machine = psutil.cpu_times()
        # User time includes guest time.
        total = sum(machine) - getattr(machine, "guest", 0.0) - getattr(machine, "guest_nice", 0.0)
        idle = machine.idle + getattr(machine, "iowait", 0.0)
        return total, idle, time.process_time()


def noise(busy: float, relative: float, runs: int) -> str:
    """Return the reason why a row cannot be trusted, or an empty string."""
    reasons = []
    if busy > BUSY:
        reasons.append(f"other processes used {busy:.0%} of the processors")
    if runs > 2 and relative > SPREAD:
        reasons.append(f"the interquartile range is {relative:.0%} of the median")
    return "; ".join(reasons)


def _cpu() -> dict[str, Any]:
    found: dict[str, Any] = {"model": platform.processor(), "flags": []}
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return found
    values: dict[str, str] = {}
    for name, colon, value in (line.partition(":") for line in lines):
        if colon:
            values.setdefault(name.strip(), value.strip())
    found["model"] = values.get("model name", found["model"])
    flags = (values.get("flags") or values.get("Features") or "").split()
    found["flags"] = [flag for flag in _FLAGS if flag in flags]
    return found


def _gpu() -> str | None:
    try:
        import pynvml

        pynvml.nvmlInit()
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(0)))
    except Exception:  # the library, driver or device is missing
        return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def library_version(name: str) -> str | None:
    """Return the version of a distribution, or None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None
