"""Counts the operations of a decoder's parts, for tests."""

from tynda.compile.count import count_call, count_runs
from tynda.compile.runs import Work
from tynda.compile.trace import Value
from tynda.heads.seq2seq import programs

BATCHED = {"is_integer": True}


def cross(family, config, frames, batch=1):
    """Report and result of the cross-attention's keys and values for encoded frames."""
    states = Value((batch, frames, config.channels)), Value((batch,), **BATCHED)
    return count_call(family.programs["cross_kv"], family, config, config, *states)


def count_cross(family, config, frames):
    return cross(family, config, frames)[0]


def count_step(family, config, frames, seen, tokens=1, batch=1, *, cached=True):
    """``tokens`` more behind those ``seen``; not ``cached``: all are run again."""
    count = tokens if cached else seen + tokens
    inputs = Value((batch, count), **BATCHED), Value((batch,), **BATCHED)
    kept = programs.cache(config, batch, seen + tokens) if cached else None
    seen_sound = cross(family, config, frames, batch)[1]
    settings = family, config
    return count_call(programs.step, family, config, settings, *inputs, seen_sound, kept)[0]


def count_text(family, config, prompt, tokens):
    """The decoder's runs for a prompt and so many steps, with how often each is needed."""
    work = Work(config.stride * config.frames, prompt=prompt, tokens=tokens + 1)
    found = count_runs(family, config, programs.runs(family, config, work))
    return [(run, report) for run, report in found if run.name == "step"]


def total(text, name):
    return sum(run.times * getattr(report, name) for run, report in text)
