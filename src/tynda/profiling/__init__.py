"""Measures what a model costs: time, energy, memory, operations and word errors.

``case`` defines one measurement, ``plan`` lists all cases of a command, ``engines`` run the models,
``worker`` measures one case in a process of its own, ``run`` measures all cases, ``store`` and
``record`` save the results, ``report`` presents them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tynda.errors import TyndaError
from tynda.extras import install

if TYPE_CHECKING:
    from tynda.profiling.case import Row

__all__ = ["check", "profile"]


def profile(
    models: str | Path | Iterable[str | Path],
    report: str | Path | None = None,
    *,
    retry: bool = False,
    on_row: Callable[[Row, int, int], None] | None = None,
    **plan: Any,
) -> list[Row]:
    """Measure models: files, folders of the Hugging Face hub, or names.

    ``plan`` has the fields of `tynda.profiling.plan.Plan`, for instance ``durations=(5, 30)`` and
    ``engines=("tynda", "transformers")``. ``report``, ``retry`` and ``on_row`` are those of
    `tynda.profiling.run.measure`; the page of a report is written, too. Raises `TyndaError` where
    a model, an engine or a manifest is missing, or tynda was installed without its ``profile``
    extra.
    """
    check()
    from tynda.profiling.plan import Plan
    from tynda.profiling.run import measure

    names = [models] if isinstance(models, str | Path) else models
    folder = None if report is None else Path(report)
    for name, value in plan.items():
        if name not in Plan.__dataclass_fields__:
            raise TyndaError(f"a profile has no {name}: see tynda.profiling.plan.Plan")
        if name in ("bits", "engines", "devices", "durations", "batches"):
            one = isinstance(value, str | int | float)
            plan[name] = (value,) if one else tuple(value)
    plan["bits"] = tuple(map(str, plan.get("bits", ())))
    plan["manifest"] = str(plan["manifest"]) if plan.get("manifest") else None
    every = Plan(tuple(map(str, names)), **plan)
    rows = measure(every, folder, retry=retry, on_row=on_row)
    if folder:
        from tynda.profiling.report import write

        write(folder)
    return rows


def check() -> None:
    """Raise `TyndaError` where a library that profiling needs is not installed."""
    try:
        import psutil  # noqa: F401
    except ImportError:
        raise TyndaError(f"profiling needs psutil: {install('profile')}") from None
