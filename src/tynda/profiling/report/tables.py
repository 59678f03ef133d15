"""Flat tables of speed and error rates for other programs; column names contain the units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tynda.files import write_whole
from tynda.profiling.case import Row
from tynda.profiling.report.read import Report, mapping, number

__all__ = ["SPEED", "STAGES", "WORDS", "speed", "words", "write"]

STAGES = ("whole", "frontend", "encoder", "decoder", "first")
_TIMES = ("mean", "p50", "p95", "p99", "low", "high")
_CASE = {
    **dict.fromkeys(("model", "family", "engine", "bits", "kind", "device"), "string"),
    **{"threads": "Int64", "status": "string", "why": "string"},
    **{"model_bytes": "Float64", "model_digest": "string", "environment": "string"},
}
SPEED = {
    **_CASE,
    **{"sound_s": "Float64", "batch": "Int64", "tokens_per_s": "Float64"},
    **dict.fromkeys(("batched", "noisy"), "boolean"),
    **{"why_noisy": "string", "busy_share": "Float64", "runs": "Int64"},
    **{f"{stage}_{name}_s": "Float64" for stage in STAGES for name in _TIMES},
    **dict.fromkeys(("load_s", "cold_s", "token_s", "tokens"), "Float64"),
    **dict.fromkeys(("real_time_factor", "throughput_s_per_s"), "Float64"),
    **dict.fromkeys(("energy_j", "energy_j_per_s_of_sound", "power_w", "idle_power_w"), "Float64"),
    **{"energy_source": "string", "energy_is_estimate": "boolean"},
    **{
        f"memory_{name}_bytes": "Float64"
        for name in ("peak", "base", "weights", "arena", "cache", "gpu", "predicted")
    },
}
"""Column -> pandas type."""
WORDS = {
    **_CASE,
    "manifest": "string",
    **{f"{rate}{end}": "Float64" for rate in ("wer", "cer") for end in ("", "_low", "_high")},
    **dict.fromkeys(("utterances", "words", "sound_s", "real_time_factor"), "Float64"),
    "noisy": "boolean",
}


def speed(report: Report) -> list[dict[str, Any]]:
    """Return a row for each case of speed, including skipped and failed ones."""
    return [_speed(report, row) for row in report.rows if row.case.work == "speed"]


def words(report: Report) -> list[dict[str, Any]]:
    """Return a row for each case of error rates."""
    return [_words(report, row) for row in report.rows if row.case.work == "words"]


def write(report: Report) -> None:
    """Write ``profile`` and ``words``, as ``.csv`` and ``.parquet``."""
    import pandas as pd

    for name, rows, kinds in (
        ("profile", speed(report), SPEED),
        ("words", words(report), WORDS),
    ):
        table = pd.DataFrame(rows, columns=list(kinds)).astype(kinds)
        write_whole(report.folder / f"{name}.csv", table.to_csv(index=False).encode())
        write_whole(report.folder / f"{name}.parquet", table.to_parquet(index=False))


def _case(report: Report, row: Row) -> dict[str, Any]:
    case, about = row.case, report.about(row.case.model)
    size = number(row.values, "bytes")
    return {
        "model": report.names[case.model],
        "family": _text(about, "family"),
        "engine": case.engine,
        "bits": case.bits,
        "kind": _text(row.values, "kind"),
        "device": case.device,
        "threads": case.threads,
        "status": row.status,
        "why": row.why,
        "model_bytes": size if size is not None else number(about, "bytes"),
        "model_digest": _text(about, "digest"),
        "environment": row.environment,
    }


def _speed(report: Report, row: Row) -> dict[str, Any]:
    case, values = row.case, row.values
    runs = number(values, "stages", "whole", "runs")
    found = _case(report, row) | {
        "sound_s": case.seconds,
        "batch": case.batch,
        "tokens_per_s": case.tokens,
        "batched": _flag(values, "batched"),
        "noisy": _flag(mapping(values, "machine"), "noisy"),
        "why_noisy": _text(mapping(values, "machine"), "why_noisy"),
        "busy_share": number(values, "machine", "busy"),
        "runs": None if runs is None else int(runs),
        "load_s": number(values, "load"),
        "cold_s": number(values, "cold"),
        "token_s": number(values, "token"),
        "tokens": number(values, "tokens"),
        "real_time_factor": number(values, "real_time_factor"),
        "throughput_s_per_s": number(values, "throughput"),
        "energy_j": number(values, "energy", "joules"),
        "energy_j_per_s_of_sound": number(values, "energy", "joules_per_second"),
        "power_w": number(values, "energy", "watts"),
        "idle_power_w": number(values, "energy", "idle_watts"),
        "energy_source": _text(mapping(values, "energy"), "source"),
        "energy_is_estimate": _flag(mapping(values, "energy"), "estimate"),
    }
    for stage in STAGES:
        for name in _TIMES:
            found[f"{stage}_{name}_s"] = number(values, "stages", stage, name)
    for name in ("peak", "base", "weights", "arena", "cache", "gpu", "predicted"):
        found[f"memory_{name}_bytes"] = number(values, "memory", name)
    return found


def _words(report: Report, row: Row) -> dict[str, Any]:
    values = row.values
    found = _case(report, row) | {"manifest": row.case.manifest}
    for rate in ("wer", "cer"):
        for end in ("", "_low", "_high"):
            found[rate + end] = number(values, rate + end)
    for name in ("utterances", "words", "real_time_factor"):
        found[name] = number(values, name)
    noisy = _flag(mapping(values, "machine"), "noisy")
    return found | {"sound_s": number(values, "seconds"), "noisy": noisy}


def _text(values: Mapping[str, Any], key: str) -> str | None:
    value = values.get(key)
    return value if isinstance(value, str) else None


def _flag(values: Mapping[str, Any], key: str) -> bool | None:
    value = values.get(key)
    return value if isinstance(value, bool) else None
