"""WER of few bits: methods and bits on one model, compared with the model in f32.

    python bench/quantization.py MODEL MANIFEST --calibration MANIFEST --output FILE.json
    python bench/quantization.py MODEL MANIFEST --kinds --calibration MANIFEST --output FILE.json
    python bench/quantization.py --figure FILE.json... --output docs/quantization.png [--kinds]

All methods are those of `tynda quantize`; all models are decoded greedily by the native engine on
the same utterances. Each row is printed when it is finished, with a 95 % interval of the difference
by a paired bootstrap, and stored in FILE.json, from which a later call continues. With --kinds, the
weights of one kind of layer are in few bits and all others in 8.
"""

from __future__ import annotations

import argparse
import fnmatch
import itertools
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tynda
from tynda import manifest as manifests
from tynda.quantization.mixed import Mixer
from tynda.quantization.run import matrix_names, quantize
from tynda.score import change, score
from tynda.store import library
from tynda.weights.grid import Grid

CASES = [
    ("rtn", 8),
    *((method, 4) for method in ("rtn", "clip", "hqq", "nf4", "kmeans", "awq", "gptq")),
    *((method, 3) for method in ("rtn", "clip", "hqq", "kmeans", "awq", "gptq")),
    ("mixed", 3),
    *((method, 2) for method in ("rtn", "clip", "hqq", "kmeans", "awq", "gptq")),
    *((method, 1.58) for method in ("absmean", "gptq")),
]
KIND_CASES = [(method, bits) for method in ("rtn", "clip", "gptq") for bits in (4, 3, 2, 1.58)]
CALIBRATED = ("gptq", "awq", "mixed")
# Patterns of the tensors of each kind of layer, in any family; the others stay in 8 bits.
KINDS = {
    "attention": ("*attention*", "*attn*"),
    "feed-forward": ("*.ff?.*", "*feed_forward*", "*.fc?.*"),
    "convolutions": ("*conv*", "stem.*", "*feature_projection*"),
    "embedding, output": ("head.*", "lm_head.*", "*embed_tokens*", "upsample.*"),
}


def transcribe_all(
    name: str | Path, manifest: str, each: int, bits: int | None
) -> list[tuple[str, str]]:
    model = tynda.load(name, bits=bits, threads=1)
    whisper = model.header.family == "whisper"
    greedy = {"temperature": (0.0,), "language": "en"} if whisper else {"beam_size": 1}
    options = model.options(**greedy)
    pairs = []
    for utterance in manifests.read(manifest)[::each]:
        text = model.transcribe(utterance.audio, options).text
        pairs.append((model.normalize(utterance.text), model.normalize(text)))
    return pairs


def quantize_case(
    args: argparse.Namespace, case: tuple[str, ...], bits: float, output: Path
) -> float:
    """Write the quantised model and return the seconds it took.

    A ``case`` is a method and, optionally, a kind of layer.
    """
    started = time.perf_counter()
    method, *kind = case
    calibration = Path(args.calibration) if method in CALIBRATED else None
    calibrated = {"calibration": calibration, "utterances": args.utterances}
    if method == "mixed":
        with TemporaryDirectory() as folder:  # the size of a file with the same bits for all
            quantize(args.model, Path(folder) / "m.safetensors", bits)
            size = (Path(folder) / "m.safetensors").stat().st_size
        mixer = Mixer(args.model, **calibrated)
        quantize(args.model, output, mixer.for_size(size), calibration=mixer.calibration)
    elif kind:
        names = matrix_names(library.load(args.model))
        selected = [n for n in names if any(fnmatch.fnmatch(n, p) for p in KINDS[kind[0]])]
        plan = dict.fromkeys(selected, Grid(bits, 32))
        quantize(args.model, output, plan, method=method, **calibrated)
    else:
        quantize(args.model, output, bits, method=method, **calibrated)
    return time.perf_counter() - started


def measure(args: argparse.Namespace) -> None:
    store = Path(args.output)
    found: dict[str, Any] = json.loads(store.read_text()) if store.exists() else {}
    found.setdefault("model", args.model)
    found.setdefault("rows", {})
    if "pairs" not in found:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "f32.safetensors"
            quantize(args.model, path, 32)
            found["bytes"] = path.stat().st_size
            found["pairs"] = transcribe_all(path, args.manifest, args.each, 32)
        found["wer"] = score(found["pairs"]).wer
        store.write_text(json.dumps(found))
    print(f"f32: WER {found['wer']:.4f}, {found['bytes']:,} bytes")
    cases = CASES if not args.kinds else KIND_CASES
    if args.cases:
        cases = [tuple(case.split(":")) for case in args.cases]
    kinds = [(kind,) for kind in KINDS] if args.kinds else [()]
    for kind, (method, width) in itertools.product(kinds, cases):
        bits = float(width) if "." in str(width) else int(width)
        key = " ".join([*kind, method, f"{bits:g}"])
        if key not in found["rows"]:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "few.safetensors"
                seconds = quantize_case(args, (method, *kind), bits, path)
                pairs = transcribe_all(path, args.manifest, args.each, 8)
                size = path.stat().st_size
            rise = change(found["pairs"], pairs)
            found["rows"][key] = {
                **{"kind": "".join(kind), "method": method, "bits": bits},
                **{"bytes": size, "seconds": seconds},
                **{"wer": score(pairs).wer, "rise": rise.wer, "low": rise.low, "high": rise.high},
            }
            store.write_text(json.dumps(found))
        row = found["rows"][key]
        print(
            f"| {key.removesuffix(f' {bits:g}')} | {bits:g} | {row['bytes']:,} "
            f"| {row['bytes'] / found['bytes']:.3f} | {row['wer']:.4f} "
            f"| {100 * row['rise']:+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f}) "
            f"| {row['rise'] / found['wer']:+.1%} "
            f"| {row['seconds']:.0f} s |",
            flush=True,
        )


def draw(paths: list[str], output: str) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(paths), figsize=(4.5 * len(paths), 4), squeeze=False)
    for axis, path in zip(axes[0], paths, strict=True):
        found = json.loads(Path(path).read_text())
        rows = list(found["rows"].values())
        for method in dict.fromkeys(row["method"] for row in rows):
            selected = sorted((r for r in rows if r["method"] == method), key=lambda r: r["bits"])
            errors = [
                [r["rise"] - r["low"] for r in selected],
                [r["high"] - r["rise"] for r in selected],
            ]
            rates = [found["wer"] + r["rise"] for r in selected]
            sizes = [r["bytes"] / found["bytes"] for r in selected]
            colour = f"C{list(dict.fromkeys(m for m, _ in CASES)).index(method)}"
            axis.errorbar(sizes, rates, errors, marker="o", capsize=2, label=method, color=colour)
        axis.axhline(found["wer"], color="black", linewidth=0.8)
        axis.set_title(library.load(found["model"]).header.name)
        axis.set_xlabel("bytes, as a share of f32")
        axis.set_ylabel("WER, greedy")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(output, dpi=110)


def draw_kinds(paths: list[str], output: str) -> None:
    """Draw a row of panels for each model, with one panel for each kind of layer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size = (2.7 * len(KINDS), 2.5 * len(paths))
    figure, axes = pyplot.subplots(
        len(paths), len(KINDS), figsize=size, sharex=True, sharey="row", squeeze=False
    )
    for line, path in zip(axes, paths, strict=True):
        found = json.loads(Path(path).read_text())
        widths = sorted({row["bits"] for row in found["rows"].values()}, reverse=True)
        for axis, kind in zip(line, KINDS, strict=True):
            for i, method in enumerate(("rtn", "clip", "gptq")):
                rows = [r for r in found["rows"].values() if r["method"] == method]
                selected = sorted((r for r in rows if r["kind"] == kind), key=lambda r: -r["bits"])
                errors = [
                    [100 * abs(r["rise"] - r[end]) for r in selected] for end in ("low", "high")
                ]
                places = [widths.index(r["bits"]) + (i - 1) / 15 for r in selected]
                rises = [100 * r["rise"] for r in selected]
                axis.errorbar(places, rises, errors, marker=".", capsize=2, label=method)
            axis.axhline(0, color="black", linewidth=0.8)
            axis.set_yscale("symlog", linthresh=3)
            axis.set_yticks([-3, 0, 3, 10, 30], ["-3", "0", "3", "10", "30"])
            axis.set_xticks(range(len(widths)), [f"{bits:g}" for bits in widths])
        line[0].set_ylabel(f"{library.load(found['model']).header.name}\npoints of WER")
    for axis, kind in zip(axes[0], KINDS, strict=True):
        axis.set_title(kind)
    for axis in axes[-1]:
        axis.set_xlabel("bits")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("--calibration")
    parser.add_argument(
        "--utterances", type=int, default=128, help="number of utterances to calibrate with"
    )
    parser.add_argument("--each", type=int, default=1, help="use every N-th utterance only")
    parser.add_argument("--cases", nargs="*", help="METHOD:BITS, such as gptq:3; all by default")
    parser.add_argument("--kinds", action="store_true", help="one kind of layer at a time")
    parser.add_argument(
        "--figure", nargs="+", metavar="FILE", help="draw the figure of these measurements"
    )
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    if args.figure:
        (draw_kinds if args.kinds else draw)(args.figure, args.output)
    else:
        measure(args)


if __name__ == "__main__":
    main()
