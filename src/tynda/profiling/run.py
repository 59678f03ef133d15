"""All cases of a profile, one after another, each in a process of its own."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout

from tynda import library, manifest
from tynda.engine import processors
from tynda.errors import TyndaError
from tynda.files import read_json, write_whole
from tynda.models import CTC_FAMILIES
from tynda.profiling import energy, environment
from tynda.profiling.case import Case, Row, read_rows
from tynda.profiling.engines import ENGINES, engine
from tynda.profiling.worker import Job

__all__ = ["RECORD", "ROWS", "Plan", "measure"]

ROWS, RECORD, LOGS = "rows.jsonl", "record.json", "logs"
"""In a report's folder."""


@dataclass(frozen=True)
class Plan:
    """What to measure: every model in every way."""

    models: tuple[str, ...]
    engines: tuple[str, ...] = ("tynda",)
    bits: tuple[str, ...] = ()
    """None: ``stored`` for a file of tynda's, 32 and 8 for a folder of the hub's."""
    devices: tuple[str, ...] = ("cpu",)
    durations: tuple[float, ...] = (5.0, 15.0, 30.0, 60.0)
    """Seconds; none: no speed is measured."""
    batches: tuple[int, ...] = (1,)
    threads: int | None = None
    """None: as many as there are processors."""
    tokens: float = 3.0
    """See `Case.tokens`."""
    manifest: str | None = None
    """Speech with texts, for error rates, and to measure speed on; None: noise, and no words."""
    repeats: int = 10
    budget: float = 10.0
    """Seconds for one case, after which it is not repeated once more."""
    operations: bool = False
    """Whether to see what is computed and where the time goes, of engines that can tell."""
    time_limit: float = 600.0
    """Seconds, after which an engine is stopped and its row has failed."""

    @classmethod
    def from_dict(cls, values: Any) -> Plan:
        """What a record holds. Raises `TyndaError` for anything else."""
        known = {f.name for f in fields(cls)}
        if not isinstance(values, dict) or set(values) - known or "models" not in values:
            raise TyndaError("the record holds no plan of a profile: take another, or begin anew")
        plan: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in values.items()
        }
        return cls(**plan)


def measure(
    plan: Plan,
    folder: Path | None = None,
    *,
    retry: bool = False,
    on_row: Callable[[Row, int, int], None] | None = None,
) -> list[Row]:
    """Measure all of a plan, and give its rows.

    In ``folder`` rows are kept as they are found (``rows.jsonl``), with the plan and the machine
    (``record.json``) and what engines say (``logs/``): another call with it leaves out what is
    there, and ``retry`` takes up again what has failed or was noisy (of a case's rows the last
    counts). ``on_row`` hears of each row, with how many of how many are done. Raises `TyndaError`
    where a model or an engine is not known, or another process measures into ``folder``.
    """
    if folder is not None:
        with _alone(folder):
            return _measure_all(plan, _Store(folder), retry, on_row)
    with tempfile.TemporaryDirectory(prefix="tynda-profile-") as temporary:
        return _measure_all(plan, _Store(Path(temporary), kept=False), retry, on_row)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """In ``folder``, which is made: two at once would measure all of it twice."""
    logs = folder / LOGS
    logs.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(logs / "lock", timeout=0):
            yield
    except Timeout:
        raise TyndaError(
            f"another profile writes to {folder}: wait for it, or take another --report"
        ) from None


def _measure_all(
    plan: Plan, store: _Store, retry: bool, on_row: Callable[[Row, int, int], None] | None
) -> list[Row]:
    for names, known in ((plan.engines, ENGINES), (plan.devices, ("cpu", "cuda"))):
        if unknown := [name for name in names if name not in known]:
            raise TyndaError(f"no {unknown[0]!r}: take some of {', '.join(known)}")
    if plan.manifest:  # to be told at once, and not by every worker
        list(manifest.read(plan.manifest))
    models = {name: Model(library.find(name)) for name in plan.models}
    cases = _cases(plan, models)
    done = store.begin(plan, models, retry)
    found = []
    for at, case in enumerate(cases, 1):
        row = done.get(case)
        if row is None:
            row = _measure(plan, case, models[case.model], store)
            store.add(row)
        found.append(row)
        if on_row:
            on_row(row, at, len(cases))
    return found


@dataclass(frozen=True)
class Model:
    """A model to be measured, and what engines have to know of it."""

    path: Path

    @cached_property
    def digest(self) -> str:
        """Of its files."""
        return environment.model_digest(self.path)

    @cached_property
    def about(self) -> dict[str, Any]:
        """As ``tynda models show`` has it."""
        return library.show(str(self.path))

    @property
    def is_folder(self) -> bool:
        """Whether it is as the Hugging Face hub has it."""
        return self.path.is_dir()

    @property
    def normalizer(self) -> str:
        """In which texts are compared; as `Recognizer.normalize`."""
        return "letters" if self.about["languages"] == ["en"] else "basic"


def _cases(plan: Plan, models: dict[str, Model]) -> list[Case]:
    threads, heard = plan.threads or processors(), plan.manifest or ""
    found = []
    for (name, model), device, which in itertools.product(
        models.items(), plan.devices, plan.engines
    ):
        for bits in plan.bits or (("32", "8") if model.is_folder else ("stored",)):
            way = (name, which, bits, device)
            case = Case("speed", *way, threads=threads, tokens=plan.tokens, manifest=heard)
            if plan.manifest:
                found.append(replace(case, work="words"))
            for seconds, batch in itertools.product(plan.durations, plan.batches):
                found.append(replace(case, seconds=float(seconds), batch=batch))
            if plan.operations and device == "cpu":
                found += _studies(case, model, plan.durations)
    return found


def _studies(case: Case, model: Model, durations: tuple[float, ...]) -> list[Case]:
    """Operations at the duration nearest to 30 s, and for a model with a decoder its cache."""
    works, found, case = engine(case.engine).works, [], replace(case, manifest="")
    if "operations" in works and durations:
        usual = min(durations, key=lambda seconds: abs(seconds - 30))
        found.append(replace(case, work="operations", seconds=float(usual)))
    if "cache" in works and model.about["family"] not in CTC_FAMILIES and durations:
        found.append(replace(case, work="cache", seconds=float(max(durations))))
    return found


def _measure(plan: Plan, case: Case, model: Model, store: _Store) -> Row:
    """A row, whatever happens to the engine."""

    def row(status: Any, why: str = "", values: dict[str, Any] | None = None) -> Row:
        return Row(case, status, why, values or {}, store.environment)

    maker = engine(case.engine)
    why = maker.missing(case)
    if why is None and maker.needs_folder and not model.is_folder:
        why = f"{case.engine} reads folders of the Hugging Face hub, and {case.model} is a file"
    if why is None and model.about["family"] not in maker.families:
        why = f"{case.engine} cannot run a model of the family {model.about['family']}"
    if why:
        return row("skipped", why)
    form = maker.format(case)
    path = _cache() / model.digest / form if form else model.path
    job = Job(case, str(model.path), str(path), normalizer=model.normalizer)
    log = store.log(case)
    if form and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"part-{path.name}")
        _, why = run(replace(job, path=str(part), prepare=True), 3 * plan.time_limit, log)
        if why:
            return row("failed", f"could not be made ready: {why}{store.see(log)}")
        os.replace(part, path)
    need = maker.needs(case, path)
    room = psutil.virtual_memory().available
    if need is not None and need > room:
        return row("skipped", f"needs {need / 1e9:.1f} GB of memory, and {room / 1e9:.1f} are free")
    job = replace(
        job,
        source=store.source(case.device),
        repeats=plan.repeats,
        budget=plan.budget,
        manifest=plan.manifest,
    )
    limit = 100 * plan.time_limit if case.work == "words" else plan.time_limit
    values, why = run(job, limit, log)
    if why:
        return row("failed", why + store.see(log))
    values["bytes"] = size(path)
    return row("ok", values=values)


def run(job: Job, limit: float, log: Path) -> tuple[dict[str, Any], str]:
    """What a worker found, and why it found nothing."""
    threads = str(job.case.threads)
    names = ("OMP", "MKL", "OPENBLAS", "VECLIB_MAXIMUM", "NUMEXPR", "RAYON")
    quiet = {f"{name}_NUM_THREADS": threads for name in names}
    quiet |= {"OPENBLAS_THREAD_TIMEOUT": "20", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    with tempfile.TemporaryDirectory() as folder, log.open("ab") as said:
        out = Path(folder) / "values.json"
        process = subprocess.Popen(
            [sys.executable, "-m", "tynda.profiling.worker", out],
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,
            env=os.environ | quiet,
            start_new_session=True,  # so that all that it starts can be stopped with it
        )
        text = json.dumps(asdict(replace(job, started=time.time()))).encode()
        try:
            process.communicate(text, timeout=limit)
        except subprocess.TimeoutExpired:
            return {}, f"took longer than {limit:g} s (--time-limit)"
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        if process.returncode < 0:
            return {}, f"stopped by {signal.Signals(-process.returncode).name}"
        if process.returncode:
            return {}, _last(log)
        values: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {}
        return values, ""


class _Store:
    """A report's folder while rows are added."""

    def __init__(self, folder: Path, kept: bool = True) -> None:
        """``kept``: whether it is still there when all has been said."""
        self._folder, self._kept = folder, kept
        self._record: dict[str, Any] = {"runs": [], "environments": {}, "models": {}}
        self._sources: dict[str, energy.Source] = {}
        self.environment = ""

    def begin(self, plan: Plan, models: dict[str, Model], retry: bool) -> dict[Case, Row]:
        """Note a run, and give the rows that are there."""
        (self._folder / LOGS).mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            self._record = read_json(self._folder / RECORD)
        now = environment.describe()
        self.environment = environment.digest(now)
        self._record["environments"].setdefault(self.environment, now)  # with its energy
        for name, model in models.items():
            about = {k: model.about[k] for k in ("family", "bytes", "config")}
            known = self._record["models"].get(name, {}).get("digest", model.digest)
            if known != model.digest:
                raise TyndaError(
                    f"{name} is another model than the one in {self._folder}: begin a new report"
                )
            self._record["models"][name] = about | {"digest": model.digest}
        load = os.getloadavg() if hasattr(os, "getloadavg") else ()
        self._record["runs"].append(
            {
                "plan": asdict(plan),
                "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "environment": self.environment,
                "load": list(load),
                "seed": 0,
            }
        )
        self._write()
        path = self._folder / ROWS
        rows = read_rows(path.read_text("utf-8")) if path.exists() else []
        if path.exists() and not path.read_bytes().endswith(b"\n"):  # interrupted in a line
            write_whole(path, "".join(row.to_json() + "\n" for row in rows).encode())
        last = {row.case: row for row in rows}
        return {c: r for c, r in last.items() if not retry or (r.status == "ok" and not r.noise)}

    def source(self, device: str) -> energy.Source:
        """Of energy, measured when it is first asked for."""
        if device not in self._sources:
            found = self._sources[device] = energy.detect(device == "cuda")
            self._record["environments"][self.environment]["energy"] = asdict(found)
            self._write()
        return self._sources[device]

    def log(self, case: Case) -> Path:
        """Where what an engine says goes."""
        name = f"{environment.digest(case.model)}-{case.engine}-{case.bits}-{case.device}.log"
        return self._folder / LOGS / name

    def see(self, log: Path) -> str:
        """Where to look for more of why something failed."""
        return f": see {log}" if self._kept else ""

    def add(self, row: Row) -> None:
        """Keep a row."""
        with (self._folder / ROWS).open("a", encoding="utf-8") as file:
            file.write(row.to_json() + "\n")

    def _write(self) -> None:
        text = json.dumps(self._record, indent=1, ensure_ascii=False)
        write_whole(self._folder / RECORD, text.encode())


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _cache() -> Path:
    from platformdirs import user_cache_path

    return user_cache_path("tynda") / "profile"


def _last(log: Path) -> str:
    """The last line that was said, which is the error's."""
    lines = log.read_text("utf-8", "replace").strip().splitlines() or ["no word of why"]
    return lines[-1].strip().removeprefix("tynda.errors.TyndaError: ")
