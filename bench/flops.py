"""Operations of Whisper, wav2vec 2.0 and tynda's own models: the tables of docs/operations.md.

python bench/flops.py              # GFLOPs of each model
python bench/flops.py conventions  # which convention gives the published values
"""

import sys
from dataclasses import replace
from typing import Any

from tynda import models
from tynda.compile.count import Report, count, count_runs
from tynda.compile.runs import Work
from tynda.heads.seq2seq import programs
from tynda.models import wav2vec2, whisper
from tynda.store import library

SIZES = {  # channels, heads, layers
    "tiny": (384, 6, 4),
    "base": (512, 8, 6),
    "small": (768, 12, 12),
    "medium": (1024, 16, 24),
    "large-v2": (1280, 20, 32),
}
PUBLISHED = {"tiny": 23.2, "medium": 917.5}
G = 1e9


def of_whisper(size: str) -> whisper.Config:
    """The published vocabulary size of multilingual models."""
    channels, heads, layers = SIZES[size]
    return whisper.Config(
        **{"channels": channels, "heads": heads, "layers": layers, "hidden": 4 * channels},
        **{"decoder_heads": heads, "decoder_layers": layers, "decoder_hidden": 4 * channels},
    )


def decoder(config: whisper.Config, tokens: int) -> list[Any]:
    """The decoder's runs for so many tokens, each with its count: what is made once, the steps."""
    work = Work(config.stride * config.frames, tokens=tokens)
    runs = programs.runs(whisper.FAMILY, config, work)
    return count_runs(whisper.FAMILY, config, runs)[1:]


def table() -> None:
    columns = "encoder", "its products", "decoder, once", "token 1", "token 100", "100 tokens"
    print("| model, 30 s |", " | ".join(columns), "|")
    print("|" + 7 * "---|")
    for size in SIZES:
        config = of_whisper(size)
        encoder = count(whisper.FAMILY, config, 2 * config.frames)
        # The prompt is the first of 100 tokens, so that all are generated one by one.
        once, *steps = decoder(config, 100)
        first, last = steps[0][1], steps[-1][1]
        row = [encoder.total_flops, 2 * encoder.total_macs]
        row += [report.total_flops for report in (once[1], first, last)]
        row += [sum(run.times * report.total_flops for run, report in steps)]
        print(f"| whisper-{size} |", " | ".join(f"{x / G:.4g}" for x in row), "|")
    large = {"channels": 1024, "layers": 24, "heads": 16, "hidden": 4096}
    ours = [("wav2vec2-base", wav2vec2.FAMILY, wav2vec2.Config(), 480_000)]
    ours += [("wav2vec2-large", wav2vec2.FAMILY, replace(wav2vec2.Config(), **large), 480_000)]
    for name in ("sentences-en", "digits-en"):
        header = library.load(name).header
        family = models.family(header.family)
        ours.append((name, family, family.configure(header.config), 3000))
    for name, family, config, frames in ours:
        report = count(family, config, frames)
        print(
            f"| {name} | {report.total_flops / G:.4g} | {2 * report.total_macs / G:.4g} | | | | |"
        )


def elements(report: Report, *operations: str) -> int:
    """Return the number of result elements of some operations."""
    return sum(row.output_bytes // 4 for row in report.rows if row.operation in operations)


def conventions() -> None:
    """Print counts by several conventions; published are 23.2 (tiny) and 917.5 (medium) GFLOPs."""
    print("| what is counted | " + " | ".join(f"{size}" for size in list(SIZES)[:4]) + " |")
    print("|---|" + 4 * "---|")
    rows: dict[str, list[float]] = {}
    for size in list(SIZES)[:4]:
        config = of_whisper(size)
        found = count(whisper.FAMILY, config, 2 * config.frames)
        macs = {name: row.macs for name, row in found.by_operation().items()}
        layers = macs["linear"] + macs["conv1d"]
        biased = [row for row in found.rows if not row.layer.endswith("k_proj")]
        biases = elements(replace(found, rows=tuple(biased)), "linear", "conv1d")
        norms, gelus, sums = (elements(found, name) for name in ("layer_norm", "gelu", "add"))
        first = sum(report.total_macs for _, report in decoder(config, 1))
        for name, total in {
            "MACs, all products": found.total_macs,
            "MACs, linear and convolution layers": layers,
            "2 MACs, all products": 2 * found.total_macs,
            "2 MACs, all products, and a decoder's first token": 2 * (found.total_macs + first),
            "2 MACs and all elementwise work (ours)": found.total_flops,
            "2 MACs, linear layers": 2 * macs["linear"],
            "**2 MACs, linear and convolution layers**": 2 * layers,
            "... and 5 for each result of a layer norm": 2 * layers + 5 * norms,
            "... and biases": 2 * layers + biases,
            "... and biases, GELU, 2 for a layer norm": 2 * layers + biases + gelus + 2 * norms,
            "... and biases, GELU, layer norms, sums": 2 * layers + biases + gelus + norms + sums,
        }.items():
            rows.setdefault(name, []).append(total / G)
    for name, values in rows.items():
        print(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    print("| published | " + " | ".join(str(PUBLISHED.get(s, "")) for s in list(SIZES)[:4]) + " |")


if __name__ == "__main__":
    conventions() if sys.argv[1:] == ["conventions"] else table()
