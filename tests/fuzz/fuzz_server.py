"""A warm process that runs command lines, each in a fork of its own with limits.

``python fuzz_server.py`` imports the commands, and then reads a line of JSON for each case: the
``arguments`` of ``tynda``, its ``environment`` and the ``folder`` to run in. The answer is a line
of JSON with the fields of `Outcome`. Nothing is computed in this process itself: it has no threads.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from tynda.models import FAMILIES

SECONDS = 5.0
"""The maximum time of the processor for a case."""
HANG_SECONDS = 40.0
"""The time after which a case is killed; the machine may be busy with others."""
PEAK_BYTES = 500e6
_ADDRESS_SPACE = 6 << 30  # The machine's own protection; the peak is measured.


@dataclass(frozen=True)
class Outcome:
    """The exit code and the output of one command line."""

    code: int | None
    """The exit code; None where a signal ended it."""
    signal: int
    """The number of the signal, 0 for none."""
    seconds: float
    """Time of the processor."""
    peak: int
    """Maximum resident memory in bytes."""
    out: str
    err: str

    def complaint(self) -> str:
        """Return what is wrong with an outcome, "" for nothing."""
        if self.signal:
            return f"signal {signal.Signals(self.signal).name} after {self.seconds:.1f} s"
        if "Traceback" in self.err or self.code not in (0, 1, 2):
            return f"exit code {self.code} and a traceback"
        if self.seconds > SECONDS:
            return f"{self.seconds:.1f} s"
        if self.peak > PEAK_BYTES:
            return f"{self.peak / 1e6:.0f} MB"
        lines = [line for line in self.err.splitlines() if not line.startswith("warning: ")]
        if self.code == 1 and lines and lines[-1].startswith("the maximum ratio is "):
            return ""  # This is the answer of profile diff --fail-above, and not an error.
        if self.code == 1 and not (self.out or lines):
            return "exit code 1 without a word"
        if self.code == 1 and not all(line.startswith("error: ") for line in lines[:1]):
            return "exit code 1 and something else than an error"
        if self.code == 1 and len(lines) > 2:  # an error of each of two files
            return "more than one line"
        if self.code == 2 and not lines[-1].startswith("Error: "):
            return "exit code 2 and something else than an error"
        return ""


class Server:
    """The process, and the cases that it runs one after the other."""

    def __init__(self) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONHASHSEED": "0",
        }
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def run(self, arguments: list[str], folder: Path, **environment: str) -> Outcome:
        """Run a command line in a folder."""
        case = {"arguments": arguments, "folder": str(folder), "environment": environment}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(case) + "\n")
        self._process.stdin.flush()
        return Outcome(**json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def _child(case: dict, out: int, err: int) -> int:
    """Run a case in the process that was forked for it; return the exit code."""
    os.chdir(case["folder"])
    os.environ.update(case["environment"])
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_SPACE, _ADDRESS_SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdin = os.fdopen(0)
    sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
    try:
        import_module("tynda.cli").main(case["arguments"], prog_name="tynda")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 70
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 70
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:
        code = 70
    return code


def _forked(case: dict) -> Outcome:
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if not pid:
            code = 71
            try:
                code = _child(case, out.fileno(), err.fileno())
            finally:
                os._exit(code)
        handle = os.pidfd_open(pid)
        ended, _, _ = select.select([handle], [], [], HANG_SECONDS)
        os.close(handle)
        if not ended:
            os.kill(pid, signal.SIGKILL)
        _, status, usage = os.wait4(pid, 0)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read(100_000).decode(errors="replace"))
    signalled = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Outcome(
        None if signalled else os.WEXITSTATUS(status),
        signalled,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss * 1024,
        *texts,
    )


def main() -> None:
    """Import the commands, then answer until the input ends."""
    warm = ("transcribe", "evaluate", "models", "quantize", "export", "profile", "train")
    warm += ("commands", "listen")
    modules = [f"tynda.cli.{name}" for name in warm]
    modules += ["tynda.heads.ctc.head", "tynda.heads.seq2seq.head", "tynda.store.huggingface"]
    modules += ["tynda.store.ctranslate2", "tynda.store.ggml", "tynda.quantization.run"]
    modules += ["tynda.text.whisper", "tynda.text.bytepairs", "tynda.quantization.methods"]
    modules += ["tynda.commands.convert", "tynda.profiling.report", "tynda.profiling.report.diff"]
    modules += ["tynda.profiling.plan", "tynda.profiling.run", "yaml"]
    modules += ["matplotlib.figure", "matplotlib.backends.backend_svg", "pyarrow.parquet"]
    modules += ["matplotlib.backends.backend_agg", "pandas"]
    modules += ["av", "soxr", "num2words", "threadpoolctl", "rich.console", "rich.table"]
    for name in (*modules, "numpy.random", "tokenizers", "difflib", "lzma", "av.subtitles.stream"):
        import_module(name)
    for name in FAMILIES:
        import_module(f"tynda.models.{name}")
    for line in sys.stdin:
        print(json.dumps(_forked(json.loads(line)).__dict__), flush=True)


if __name__ == "__main__":
    main()
