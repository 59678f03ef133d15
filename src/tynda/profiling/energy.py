"""Joules: counted by the hardware where it does, else estimated from the processors' time.

The sources are codecarbon's: RAPL through Linux's powercap, NVML, and where the processor counts
nothing, its rated power in codecarbon's table (4 W for each logical processor that is not there).
codecarbon itself samples power every second or so; here the counters are read around the work,
which takes milliseconds.
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
"""Of a logical processor that is in no table, as codecarbon has it."""


@dataclass(frozen=True)
class Source:
    """Where the figures come from."""

    name: Literal["rapl", "estimate"]
    """Of the processor's; a GPU's come from NVML."""
    watts: float = 0.0
    """For an estimate: rated power of a logical processor at work."""
    of: str = ""
    """For an estimate: whose rating that is."""
    idle: float = 0.0
    """Watts of a machine that does nothing. An estimate counts the work's own processor time
    alone, so that there is nothing to subtract."""
    idle_gpu: float = 0.0


@dataclass(frozen=True)
class Energy:
    """What some work took, that of idling left out."""

    joules: float
    seconds: float
    source: str
    estimate: bool
    idle_watts: float
    """Subtracted for each of the seconds."""


def detect(gpu: bool = False) -> Source:
    """This machine's source, with its idle power: two seconds are spent on that where power is
    counted, in which the machine should do nothing else."""
    counter = _gpu_joules() if gpu else None
    idle_gpu = _idle(counter) if counter else 0.0
    if not _Rapl.domains():
        return Source("estimate", *_rating(), idle_gpu=idle_gpu)
    return Source("rapl", idle=_idle(_Rapl().joules), idle_gpu=idle_gpu)


class Meter:
    """Counts the joules of this process, or of the machine where the hardware counts those."""

    def __init__(self, source: Source, gpu: bool = False) -> None:
        """Raises OSError where the counters may not be read."""
        self._source, self._name = source, str(source.name)
        self._gpu = _gpu_joules() if gpu else None
        if gpu:
            self._name += "+nvml" if self._gpu else ", without the GPU"
        self._rapl = _Rapl() if source.name == "rapl" else None
        self._started = self._now()

    def start(self) -> None:
        """Count from here."""
        self._started = self._now()

    def stop(self) -> Energy:
        """What it took since `start`."""
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
    """The packages' counters (Linux, Intel and AMD), which start again when they are full."""

    def __init__(self) -> None:
        self._counters = [
            (domain / "energy_uj", int((domain / "max_energy_range_uj").read_text()))
            for domain in self.domains()
        ]
        self._last = [int(path.read_text()) for path, _ in self._counters]
        self._total = 0

    @staticmethod
    def domains() -> list[Path]:
        """Those of whole packages that may be read."""
        found = []
        for domain in sorted(POWERCAP.glob("intel-rapl:*")):
            try:
                if (domain / "name").read_text().startswith("package"):
                    (domain / "energy_uj").read_text()
                    found.append(domain)
            except OSError:  # root's alone, since 2020
                continue
        return found

    def joules(self) -> float:
        """Since this counter was made, of all packages."""
        for i, (path, size) in enumerate(self._counters):
            now = int(path.read_text())
            self._total += (now - self._last[i]) % (size + 1)
            self._last[i] = now
        return self._total / 1e6


def _gpu_joules() -> Callable[[], float] | None:
    """The first GPU's counter, which those before Volta (2017) do not have."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _gpu(pynvml)
        pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except pynvml.NVMLError:
        return None
    return lambda: float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3  # from mJ


def _gpu(pynvml: Any) -> Any:
    """The first that PyTorch sees."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip()
    if first.startswith("GPU-"):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    return pynvml.nvmlDeviceGetHandleByIndex(int(first) if first.isdigit() else 0)


def _idle(joules: Callable[[], float]) -> float:
    """The least watts of some moments: in the others the machine did something."""
    least = float("inf")
    for _ in range(4):
        before, started = joules(), time.perf_counter()
        time.sleep(0.5)
        least = min(least, (joules() - before) / (time.perf_counter() - started))
    return least


def _rating() -> tuple[float, str]:
    """Watts of a logical processor, and whose they are."""
    count = psutil.cpu_count() or 1
    try:
        cpu: Any = import_module("codecarbon.core.cpu")
        logging.getLogger("codecarbon").setLevel(logging.ERROR)
        rated = cpu.TDP()
    except Exception:  # it may be missing, or not know this machine in many ways
        return UNKNOWN_WATTS, f"a processor that is in no table, {UNKNOWN_WATTS:g} W a thread"
    if not rated.tdp or rated.tdp == UNKNOWN_WATTS * count:
        return UNKNOWN_WATTS, f"{rated.model}, unknown to codecarbon, {UNKNOWN_WATTS:g} W a thread"
    if environment.virtual():  # its table is of whole processors, and this is a part of one
        return UNKNOWN_WATTS, f"a part of {rated.model}, {UNKNOWN_WATTS:g} W a thread"
    return rated.tdp / count, f"{rated.model}, {rated.tdp:g} W by codecarbon's table"
