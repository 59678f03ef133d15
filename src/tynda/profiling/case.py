"""The case, which defines a measurement, and the row, which has its result."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

__all__ = ["Case", "Row", "Work", "read_rows"]

Work = Literal["speed", "words", "operations", "cache"]
"""``speed``: time, energy and memory. ``words``: error rates on a manifest. ``operations``: the
operations of a model and their times. ``cache``: a decoder with its KV cache and without."""


@dataclass(frozen=True)
class Case:
    """One measurement to make."""

    work: Work
    model: str
    """The model as the user named it: a file, a folder or a name."""
    engine: str
    """A key of `tynda.profiling.engines.ENGINES`."""
    bits: str
    """Bits of a weight: ``32``, ``16`` (f16), ``bf16``, ``8`` to ``1.58``, or ``stored``, which
    means unchanged from the model's file."""
    device: str = "cpu"
    """``cpu`` or ``cuda``."""
    seconds: float = 0.0
    """Seconds of audio in each recording; 0 for words."""
    batch: int = 1
    """Number of recordings in a batch."""
    threads: int = 1
    tokens: float = 3.0
    """Tokens that a decoder generates for each second of audio, independent of its content, so
    that all engines do the same work."""
    manifest: str = ""
    """The manifest of the recordings as the user named it; empty means noise."""
    normalizer: str = ""
    """The normaliser with which words are scored, a key of `NORMALIZERS`; empty means the model's
    own."""


@dataclass(frozen=True)
class Row:
    """The result of a measurement. All times are in seconds, all sizes in bytes.

    ``values`` of speed (absent where an engine cannot report them):

    - ``kind``: the engine's own name of the precision; ``batched``: whether it computes a batch at
      once, and not one recording after another;
    - ``load``, ``cold`` (from the start of the process to its first result), ``tokens`` (generated
      in one run for each recording), ``token`` (the decoder's median time divided by them),
      ``real_time_factor``, ``throughput`` (seconds of audio in a second);
    - ``stages``: name (``whole``, ``frontend``, ``encoder``, ``decoder``, ``first``: the time to
      the first word) -> `statistics.Spread` as a dict;
    - ``energy``: ``joules`` (an utterance), ``joules_per_second`` (of audio), ``source`` (as
      `energy.Meter` names it), ``estimate`` (whether it is an estimate), ``idle_watts``
      (subtracted), ``watts`` (mean, without idle power);
    - ``memory``: ``peak`` (resident, of the process), ``base`` (resident with the engine's
      libraries, before the model), ``described`` (the same, with all of the model except its
      weights), ``weights``, ``arena``, ``cache`` (keys and values), ``data`` (samples, features
      and results), ``gpu``, ``predicted`` (the peak, from ``described`` and `predict.predict`);
    - ``machine``: ``busy`` (share of the processors that other processes used meanwhile),
      ``noisy``, ``why_noisy``.

    ``values`` of words: ``wer``, ``wer_low``, ``wer_high``, ``cer``, ``cer_low``, ``cer_high``
    (95 % by bootstrap over utterances), ``utterances``, ``words``, ``bytes`` (of the model's file
    or files), ``real_time_factor``.

    ``values`` of operations:

    - ``limits``: ``flops_32``, ``ops_8`` (two for a multiply-add), ``bandwidth``, each per second,
      as `operations.limits` measures them;
    - ``parts``: ``encoder``, ``decoder`` -> items of ``operation``, ``flops``, ``macs``,
      ``weight_bytes`` (in the kernels' format), ``input_bytes``, ``output_bytes``, ``bits``
      (``32`` or ``8``, the matmul precision), ``calls``, ``seconds`` (None where all are fused into
      products, whose time includes them: `Native.timings`); conventions in `compile.count`;
    - ``layers``: the same by layer, with ``layer``.

    ``values`` of cache: ``positions`` (of a token, from 1 on), and the seconds for the token
    ``with_cache`` (keys and values of the tokens before it are cached) and ``without_cache``
    (the decoder runs on all tokens so far).
    """

    case: Case
    status: Literal["ok", "skipped", "failed"]
    why: str
    """The reason why the case was skipped or failed, in a line."""
    values: dict[str, Any]
    environment: str
    """The digest of the machine and its libraries: a key in the record's ``environments``."""

    @property
    def noise(self) -> str:
        """The reason why the values cannot be trusted, or an empty string."""
        machine = self.values.get("machine")
        if not isinstance(machine, dict) or not machine.get("noisy"):
            return ""
        return str(machine.get("why_noisy") or "noisy")

    def to_json(self) -> str:
        """Return the row as one line of JSON."""
        return json.dumps(asdict(self), ensure_ascii=False, allow_nan=False)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """Return the row of parsed `to_json`. Raises TypeError or KeyError for other values."""
        return cls(**values | {"case": Case(**values["case"])})


_TOO_MANY = 1e15
"""More than any count, or number of seconds, of a measurement."""


def read_rows(text: str) -> list[Row]:
    """Read rows, one on each line; damaged ones, such as an incomplete last line, left by an
    interrupt, are left out."""
    rows = []
    for line in text.split("\n"):  # splitlines would also split within names
        try:
            row = Row.from_dict(json.loads(line))
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
        if _is_sound(row):
            rows.append(row)
    return rows


def _is_sound(row: Row) -> bool:
    """Return whether the values have the types and ranges of a measurement."""
    case = row.case
    texts = (case.model, case.engine, case.bits, case.device, case.work, case.manifest)
    numbers = (case.seconds, case.batch, case.threads, case.tokens)
    return (
        all(isinstance(x, str) for x in (*texts, row.status, row.why, row.environment))
        and all(isinstance(x, int | float) and abs(x) < _TOO_MANY for x in numbers)
        and isinstance(row.values, dict)
    )
