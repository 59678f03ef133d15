"""Runs generated cases: the short and the long test of each kind of input."""

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings

SHORT, LONG = 200, int(os.environ.get("TYNDA_FUZZ_CASES", "20000"))
KEEP = os.environ.get("TYNDA_FUZZ_KEEP")
FAST = settings(
    max_examples=SHORT, deadline=None, database=None, derandomize=True, phases=[Phase.generate]
)
SLOW = settings(
    FAST,
    max_examples=LONG,
    derandomize=False,
    suppress_health_check=list(HealthCheck),
)


class Cases:
    """Runs cases one after the other, and remembers those that fail."""

    def __init__(self, server, folder):
        self.server, self.folder, self.bases = server, folder, {}
        self.failures, self.codes = [], Counter()
        self.here = folder / "case"

    def fresh(self):
        """Return an empty folder for the next case."""
        shutil.rmtree(self.here, ignore_errors=True)
        self.here.mkdir()
        return self.here

    def run(self, arguments, written=(), **environment):
        """Run a command line in the case's folder; an error may leave no file that it writes."""
        before = {*self.here.iterdir()}
        outcome = self.server.run([*map(str, arguments)], self.here, **environment)
        self.codes[outcome.code] += 1
        complaint = outcome.complaint()
        left = {path.name for path in {*self.here.iterdir()} - before}
        if left - {*written} or (outcome.code and left):
            complaint = complaint or f"left {sorted(left)} behind"
        if not complaint:
            return
        last = (outcome.err.strip().splitlines() or [""])[-1][:300]
        where = re.findall(r'File "\S*/(\w+\.py)", line (\d+)', outcome.err)[-3:]
        self.failures.append(f"{complaint}: tynda {' '.join(map(str, arguments))}: {last} {where}")
        if KEEP:
            kept = Path(KEEP) / f"{os.getpid()}-{len(os.listdir(KEEP)):05}"
            shutil.copytree(self.here, kept)
            about = {"arguments": [*map(str, arguments)], "environment": environment}
            (kept / "case.json").write_text(json.dumps(about | outcome.__dict__, indent=1))

    def report(self):
        """Fail if a case did."""
        shown = "\n".join(sorted({*self.failures})[:20])
        count = self.codes.total()
        print(f"{count} cases, by exit code {dict(self.codes)}")
        assert not self.failures, f"{len(self.failures)} of {count} cases fail:\n{shown}"


def both(strategy):
    """Make a test of a function of cases and a drawn value: a short one and a long one."""

    def decorate(function):
        def check(cases, each):
            each(lambda drawn: function(cases, drawn))
            cases.report()

        def short(cases):
            check(cases, lambda run: FAST(given(strategy)(lambda drawn: run(drawn)))())

        def long(cases):
            check(cases, lambda run: SLOW(given(strategy)(lambda drawn: run(drawn)))())

        name = function.__name__
        function.__globals__[f"test_{name}"] = short
        function.__globals__[f"test_{name}_many"] = pytest.mark.slow(long)
        return function

    return decorate


def of(items, pick):
    """Return one of some items."""
    items = list(items)
    return items[pick % len(items)]
