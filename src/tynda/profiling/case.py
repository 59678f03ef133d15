"""What is measured: a cell of the table, and the row that comes of it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Case", "Row", "Work", "read_rows"]

Work = Literal["speed", "words", "operations", "cache"]
"""``speed``: time, energy and memory. ``words``: error rates on a manifest. ``operations``: what
is computed, and where the time goes. ``cache``: a decoder with its keys and values remembered,
and without."""


@dataclass(frozen=True)
class Case:
    """One thing to measure."""

    work: Work
    model: str
    """As it was named: a file, a folder or a name."""
    engine: str
    """A key of `tynda.profiling.engines.ENGINES`."""
    bits: str
    """Of a weight: ``32``, ``16`` (f16), ``bf16``, ``8`` to ``1.58``, or ``stored``: as they are
    in the model's file."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    seconds: float = 0.0
    """Of sound in each recording; 0 for words."""
    batch: int = 1
    """Recordings heard at a time."""
    threads: int = 1
    tokens: float = 3.0
    """That a model with a decoder says for each second of sound, whatever it hears: all engines
    do the same work."""
    manifest: str = ""
    """The speech that is heard, as it was named; nothing: noise."""


@dataclass(frozen=True)
class Row:
    """What was found. All times are in seconds, all sizes in bytes.

    ``values`` of speed (absent where an engine cannot tell):

    - ``kind``: the engine's own name of the precision; ``batched``: whether it takes a batch as
      one, and not one recording after another;
    - ``load``, ``cold`` (from the start of the process to its first result), ``tokens`` (said in
      one run by each recording), ``token`` (the decoder's median time over them),
      ``real_time_factor``, ``throughput`` (seconds of sound in a second);
    - ``stages``: name (``whole``, ``frontend``, ``encoder``, ``decoder``, ``first``: the time to
      the first word) -> `statistics.Spread` as a dict;
    - ``energy``: ``joules`` (an utterance), ``joules_per_second`` (of sound), ``source`` (as
      `energy.Meter` names it), ``estimate`` (whether it is one), ``idle_watts`` (subtracted),
      ``watts`` (mean, that of idling left out);
    - ``memory``: ``peak`` (resident, of the process), ``base`` (resident with the engine's
      libraries, before the model), ``described`` (the same, with all of the model but its
      weights), ``weights``, ``arena``, ``cache`` (keys and values), ``data`` (samples, features
      and results), ``gpu``, ``predicted`` (of peak: ``described`` and `predict.predict`);
    - ``machine``: ``busy`` (share of the processors that others took meanwhile), ``noisy``,
      ``why_noisy``.

    ``values`` of words: ``wer``, ``wer_low``, ``wer_high``, ``cer``, ``cer_low``, ``cer_high``
    (95 % by bootstrap over utterances), ``utterances``, ``words``, ``bytes`` (of the model's file
    or files), ``real_time_factor``.

    ``values`` of operations:

    - ``limits``: ``flops_32``, ``ops_8`` (two for a multiply-add), ``bandwidth``, each a second,
      as `operations.limits` measures them;
    - ``parts``: ``encoder``, ``decoder`` -> items of ``operation``, ``flops``, ``macs``,
      ``weight_bytes`` (as the kernels hold them), ``input_bytes``, ``output_bytes``, ``bits``
      (``32`` or ``8``: of products), ``calls``, ``seconds`` (None where all are done on the way out
      of products, whose time has them: `Native.timings`); conventions in `ops.count`;
    - ``layers``: the same by layer, with ``layer``.

    ``values`` of cache: ``positions`` (of a token, from 1 on), and the seconds for it
    ``with_cache`` (keys and values of the tokens before it remembered) and ``without_cache``
    (the decoder run on all tokens so far).
    """

    case: Case
    status: Literal["ok", "skipped", "failed"]
    why: str
    """Why it was skipped or failed, in a line."""
    values: dict[str, Any]
    environment: str
    """The digest of the machine and its libraries, a key in the record's ``environments``."""

    @property
    def noise(self) -> str:
        """Why its figures cannot be trusted, or nothing."""
        machine = self.values.get("machine")
        if not isinstance(machine, dict) or not machine.get("noisy"):
            return ""
        return str(machine.get("why_noisy") or "noisy")

    def to_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """What `to_json` wrote, parsed. Raises TypeError or KeyError for anything else."""
        return cls(**values | {"case": Case(**values["case"])})


def read_rows(text: str) -> list[Row]:
    """Rows of a file, one on a line; what an interrupt left of the last line is passed over."""
    rows = []
    for line in text.split("\n"):  # splitlines would part names, too
        try:
            rows.append(Row.from_dict(json.loads(line)))
        except (ValueError, TypeError, KeyError):
            continue
    return rows
