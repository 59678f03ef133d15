"""Measures all cases of a profile, one after another, each in a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import psutil

from tynda import manifest
from tynda.files import check_readable, temporary_folder
from tynda.profiling.case import Case, Row
from tynda.profiling.engines import engine
from tynda.profiling.engines.base import Engine
from tynda.profiling.plan import PREPARING, TRANSCRIBING, Model, Plan, cases
from tynda.profiling.store import Store, alone
from tynda.profiling.worker import Job
from tynda.store import library
from tynda.text.normalize import NORMALIZERS

__all__ = ["measure"]


def measure(
    plan: Plan,
    folder: Path | None = None,
    *,
    retry: bool = False,
    on_row: Callable[[Row, int, int], None] | None = None,
) -> list[Row]:
    """Measure all cases of a plan, and return their rows.

    Rows are stored in ``folder`` as they are measured (``rows.jsonl``), with the plan and the
    machine (``record.json``) and the engines' output (``logs/``). Another call with the same folder
    skips the cases in it; ``retry`` repeats those that failed or were noisy (the last row of a case
    counts). ``on_row`` is called with each row, the number of rows done, and their total. Raises
    `TyndaError` where a model or an engine is unknown, or another process uses ``folder``.
    """
    if folder is not None:
        with alone(folder):
            return _measure_all(plan, Store(folder), retry, on_row)
    with temporary_folder() as temporary:
        return _measure_all(plan, Store(temporary, kept=False), retry, on_row)


def _measure_all(
    plan: Plan, store: Store, retry: bool, on_row: Callable[[Row, int, int], None] | None
) -> list[Row]:
    if plan.manifest:  # errors are raised at once, not in every worker
        for utterance in manifest.read(plan.manifest):
            check_readable(Path(utterance.audio), "recording")
    if plan.normalizer:  # its package may not be installed
        NORMALIZERS[plan.normalizer]()
    models = {name: Model(library.find(name)) for name in plan.models}
    every = cases(plan, models)
    done = store.begin(plan, models, retry)
    found = []
    for at, case in enumerate(every, 1):
        row = done.get(case)
        if row is None:
            row = _measure(plan, case, models[case.model], store)
            store.add(row)
        found.append(row)
        if on_row:
            on_row(row, at, len(every))
    return found


def _measure(plan: Plan, case: Case, model: Model, store: Store) -> Row:
    """Measure a case; return a row even if the engine fails."""

    def row(status: Any, why: str = "", values: dict[str, Any] | None = None) -> Row:
        return Row(case, status, why, values or {}, store.environment)

    maker = engine(case.engine)
    if why := _missing(maker, case, model):
        return row("skipped", why)
    log, form = store.log(case), maker.format(case)
    path = _cache() / model.digest / maker.version / form if form else model.path
    job = Job(case, str(model.path), str(path), normalizer=case.normalizer or model.normalizer)
    if form and not path.exists() and (why := _prepare(job, PREPARING * plan.time_limit, log)):
        return row("failed", f"could not be prepared: {why}{store.see(log)}")
    need = maker.needs(case, path)
    room = psutil.virtual_memory().available
    if need is not None and need > room:
        return row("skipped", f"needs {need / 1e9:.1f} GB of memory, but {room / 1e9:.1f} are free")
    source = store.source(case.device)
    job = replace(job, source=source, repeats=plan.repeats, budget=plan.budget)
    limit = plan.time_limit * (TRANSCRIBING if case.work == "words" else 1)
    values, why = run(job, limit, log)
    if why:
        return row("failed", why + store.see(log))
    values["bytes"] = size(path) if form else model.about["bytes"]
    return row("ok", values=values)


def _missing(maker: Engine, case: Case, model: Model) -> str:
    """Return the reason why an engine cannot be measured here, or an empty string."""
    if maker.needs_folder and not model.is_folder:
        return f"{case.engine} reads Hugging Face folders, but {case.model} is a file"
    if model.about["family"] not in maker.families:
        return f"{case.engine} cannot run a model of the family {model.about['family']}"
    try:
        return maker.missing(case) or ""
    except Exception as error:  # an installation may be broken in any way
        return f"{case.engine} cannot be loaded: {error}"


def _prepare(job: Job, limit: float, log: Path) -> str:
    """Create `Job.path` atomically; return why that failed, or an empty string."""
    path = Path(job.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=path.parent) as folder:
        part = Path(folder) / path.name
        _, why = run(replace(job, path=str(part), prepare=True), limit, log)
        if not why:
            with suppress(OSError):  # another process has created it meanwhile
                os.replace(part, path)
    return why


def run(job: Job, limit: float, log: Path) -> tuple[dict[str, Any], str]:
    """Run a worker; return its values, and the reason if it failed."""
    threads = str(job.case.threads)
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "RAYON")
    quiet = {f"{name}_NUM_THREADS": threads for name in names}
    quiet |= {"OPENBLAS_THREAD_TIMEOUT": "20", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    quiet |= {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # the order of NVML
    with temporary_folder() as folder, log.open("ab") as said:
        out = folder / "values.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tynda.profiling.worker", out],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=os.environ | quiet,
            start_new_session=True,  # a process group, so that its children can be stopped with it
        )
        text = json.dumps(asdict(replace(job, started=time.time()))).encode()
        try:
            process.communicate(text, timeout=min(limit, _LONGEST))
        except subprocess.TimeoutExpired:
            return {}, f"took longer than {limit:g} s (--time-limit)"
        finally:
            _stop(process)
        if process.returncode < 0:
            return {}, f"stopped by {signal.Signals(-process.returncode).name}"
        if process.returncode:
            return {}, _last(log)
        values: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        return values, ""


_LONGEST = 2e6
"""Maximum timeout of a process in seconds."""


def _stop(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
    else:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tynda") / "profile"


def _last(log: Path) -> str:
    """Return the last line of a log, which is that of the error."""
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["unknown reason"]
    return lines[-1].strip().removeprefix("tynda.errors.TyndaError: ")
