"""Energy in joules, from hardware counters or, without them, estimated from processor time.

The sources are those of codecarbon: RAPL through Linux's powercap, NVML, and, for a processor
without counters, its rated power in codecarbon's table (4 W for each logical processor that is not
in the table). codecarbon itself samples power about every second; here the counters are read before
and after the work, which takes milliseconds.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import psutil

from tynda.profiling import environment

__all__ = ["Energy", "Meter", "Source", "detect"]

POWERCAP = Path("/sys/class/powercap")
UNKNOWN_WATTS = 4.0
"""The power of a logical processor that is in no table, the value of codecarbon."""


@dataclass(frozen=True)
class Source:
    """The source of energy values."""

    name: Literal["rapl", "estimate"]
    """The source for the processor; a GPU's source is NVML."""
    watts: float = 0.0
    """The rated power of a logical processor at work, for an estimate."""
    of: str = ""
    """The processor that the rating belongs to, for an estimate."""
    idle: float = 0.0
    """Watts of the idle machine. An estimate uses only the processor time of the work itself, so
    that there is nothing to subtract."""
    idle_gpu: float = 0.0


@dataclass(frozen=True)
class Energy:
    """The energy of some work, without idle power."""

    joules: float
    seconds: float
    source: str
    estimate: bool
    idle_watts: float
    """The power that was subtracted."""


def detect(gpu: bool = False) -> Source:
    """Return this machine's source, with its idle power. Where counters exist, idle power is
    measured for two seconds, in which the machine should do nothing else."""
    counter = _gpu_joules() if gpu else None
    idle_gpu = _idle(counter) if counter else 0.0
    if not _Rapl.domains():
        return Source("estimate", *_rating(), idle_gpu=idle_gpu)
    return Source("rapl", idle=_idle(_Rapl().joules), idle_gpu=idle_gpu)


class Meter:
    """Counts the joules of this process, or of the whole machine where the hardware counts them."""

    def __init__(self, source: Source, gpu: bool = False) -> None:
        """Raise OSError where the counters may not be read."""
        self._source, self._name = source, str(source.name)
        self._gpu = _gpu_joules() if gpu else None
        if gpu:
            self._name += "+nvml" if self._gpu else ", without the GPU"
        self._rapl = _Rapl() if source.name == "rapl" else None
        self._started = self._now()

    def start(self) -> None:
        """Start counting."""
        self._started = self._now()

    def stop(self) -> Energy:
        """Return the energy since `start`."""
        spent = [now - then for now, then in zip(self._now(), self._started, strict=True)]
        seconds, cpu, gpu = spent
        idle = self._source.idle + (self._source.idle_gpu if self._gpu else 0.0)
        joules = max(cpu + gpu - idle * seconds, 0.0)
        return Energy(joules, seconds, self._name, self._source.name == "estimate", idle)

    def _now(self) -> tuple[float, float, float]:
        gpu = self._gpu() if self._gpu else 0.0
        if self._rapl:
            return time.perf_counter(), self._rapl.joules(), gpu
        return time.perf_counter(), self._source.watts * time.process_time(), gpu


class _Rapl:
    """The packages' energy counters (Linux, Intel and AMD), which wrap around when full."""

    def __init__(self) -> None:
        self._counters = [
            (domain / "energy_uj", int((domain / "max_energy_range_uj").read_text()))
            for domain in self.domains()
        ]
        self._last = [int(path.read_text()) for path, _ in self._counters]
        self._total = 0

    @staticmethod
    def domains() -> list[Path]:
        """Return the readable domains of whole packages."""
        found = []
        for domain in sorted(POWERCAP.glob("intel-rapl:*")):
            try:
                if (domain / "name").read_text().startswith("package"):
                    (domain / "energy_uj").read_text()
                    found.append(domain)
            except OSError:  # readable by root only since 2020
                continue
        return found

    def joules(self) -> float:
        """Return the joules of all packages since this object was created."""
        for i, (path, size) in enumerate(self._counters):
            now = int(path.read_text())
            self._total += (now - self._last[i]) % (size + 1)
            self._last[i] = now
        return self._total / 1e6


def _gpu_joules() -> Callable[[], float] | None:
    """Return the first GPU's counter, or None; GPUs before Volta (2017) have none."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _gpu(pynvml)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # from mJ


def _gpu(pynvml: Any) -> Any:
    """Return the handle of the first GPU that PyTorch uses."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    return pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _idle(joules: Callable[[], float]) -> float:
    """Return the minimum power of several intervals: in the others the machine was busy."""
    minimum = float("inf")
    for _ in range(4):
        before, started = joules(), time.perf_counter()
        time.sleep(0.5)
        minimum = min(minimum, (joules() - before) / (time.perf_counter() - started))
    return minimum


def _rating() -> tuple[float, str]:
    """Return the watts of a logical processor, and which processor they are of."""
    count = psutil.cpu_count() or 1
    try:
        cpu: Any = import_module("codecarbon.core.cpu")
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        rated = cpu.TDP()
    except Exception:  # codecarbon may be missing, or fail on this machine in many ways
        return UNKNOWN_WATTS, f"a processor that is in no table, {UNKNOWN_WATTS:g} W a thread"
    if not rated.tdp or rated.tdp == UNKNOWN_WATTS * count:
        return UNKNOWN_WATTS, f"{rated.model}, unknown to codecarbon, {UNKNOWN_WATTS:g} W a thread"
    if environment.virtual():  # the table has whole processors, but a virtual one is only a part
        return UNKNOWN_WATTS, f"a part of {rated.model}, {UNKNOWN_WATTS:g} W a thread"
    return rated.tdp / count, f"{rated.model}, {rated.tdp:g} W by codecarbon's table"
