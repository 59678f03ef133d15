"""What few bits cost in words: methods and bits on one model, beside the model in f32.

    python bench/quantization.py MODEL MANIFEST --calibration MANIFEST --output FILE.json
    python bench/quantization.py MODEL MANIFEST --kinds --output FILE.json
    python bench/quantization.py --figure FILE.json... --output docs/quantization.png

Every way is `tynda quantize`'s; all are heard greedily by the native engine with the same
utterances. A row is printed as soon as it is there, with a paired bootstrap's 95 % interval of
the difference, and kept in FILE.json, from which a later call goes on.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tynda
from tynda import library
from tynda.quantization.mixed import Mixer
from tynda.quantization.run import products, quantize
from tynda.score import change, score

WAYS = [
    ("rtn", 8),
    *((method, 4) for method in ("rtn", "clip", "hqq", "nf4", "kmeans", "awq", "gptq")),
    *((method, 3) for method in ("rtn", "clip", "hqq", "kmeans", "awq", "gptq")),
    ("mixed", 3),
    *((method, 2) for method in ("rtn", "clip", "hqq", "kmeans", "awq", "gptq")),
    *((method, 1.58) for method in ("absmean", "gptq")),
]
CALIBRATED = ("gptq", "awq", "mixed")
# Which tensors are attention's, and so on, in any family; the others keep 8 bits.
KINDS = {
    "attention": ("*attention*", "*attn*"),
    "feed-forward": ("*.ff?.*", "*feed_forward*", "*.fc?.*"),
    "convolutions": ("*conv*",),
    "embedding, output": ("head.*", "lm_head.*", "*embed_tokens*", "upsample.*"),
}


def heard(name: str | Path, manifest: str, each: int, bits: int | None) -> list[tuple[str, str]]:
    model = tynda.load(name, bits=bits, threads=1)
    whisper = model.header.family == "whisper"
    greedy = {"temperature": (0.0,), "language": "en"} if whisper else {"beam_size": 1}
    options = model.options(**greedy)
    pairs = []
    for utterance in tynda.manifest.read(manifest)[::each]:
        text = model.transcribe(utterance.audio, options).text
        pairs.append((model.normalize(utterance.text), model.normalize(text)))
    return pairs


def written(args: argparse.Namespace, method: str, bits: float, output: Path) -> float:
    """The seconds that it took."""
    started = time.perf_counter()
    calibration = Path(args.calibration) if method in CALIBRATED else None
    if method == "mixed":
        with TemporaryDirectory() as folder:  # as many bytes as with the same bits for all
            quantize(args.model, Path(folder) / "m.safetensors", bits)
            size = (Path(folder) / "m.safetensors").stat().st_size
        plan = Mixer(args.model, calibration).for_size(size)
        quantize(args.model, output, plan, method="gptq", calibration=calibration)
    elif method in KINDS:
        names = products(library.load(args.model))
        patterns = [p for p in KINDS[method] if fnmatch.filter(names, p)]
        overrides = [(pattern, bits) for pattern in patterns]
        quantize(args.model, output, 8, method="clip", overrides=overrides)
    else:
        quantize(
            args.model,
            output,
            bits,
            method=method,
            calibration=calibration,
        )
    return time.perf_counter() - started


def measure(args: argparse.Namespace) -> None:
    kept = Path(args.output)
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    found.setdefault("model", args.model)
    found.setdefault("rows", {})
    if "pairs" not in found:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "f32.safetensors"
            quantize(args.model, path, 32)
            found["bytes"] = path.stat().st_size
            found["pairs"] = heard(path, args.manifest, args.each, 32)
        found["wer"] = score(found["pairs"]).wer
        kept.write_text(json.dumps(found))
    print(f"f32: WER {found['wer']:.4f}, {found['bytes']:,} bytes")
    ways = [tuple(way.split(":")) for way in args.ways] if args.ways else WAYS
    if args.kinds:
        ways = [(kind, bits) for kind in KINDS for bits in (4, 3, 2)]
    for method, width in ways:
        bits = float(width) if "." in str(width) else int(width)
        key = f"{method} {bits:g}"
        if key not in found["rows"]:
            with TemporaryDirectory() as folder:
                path = Path(folder) / "few.safetensors"
                seconds = written(args, method, bits, path)
                pairs = heard(path, args.manifest, args.each, 8)
                size = path.stat().st_size
            rise = change(found["pairs"], pairs)
            found["rows"][key] = {
                **{"method": method, "bits": bits, "bytes": size, "seconds": seconds},
                **{"wer": score(pairs).wer, "rise": rise.wer, "low": rise.low, "high": rise.high},
            }
            kept.write_text(json.dumps(found))
        row = found["rows"][key]
        print(
            f"| {method} | {bits:g} | {row['bytes']:,} | {row['bytes'] / found['bytes']:.3f} "
            f"| {row['wer']:.4f} | {100 * row['rise']:+.2f} ({100 * row['low']:+.2f} to "
            f"{100 * row['high']:+.2f}) | {row['rise'] / found['wer']:+.1%} "
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
            mine = sorted((r for r in rows if r["method"] == method), key=lambda r: r["bits"])
            spread = [[r["rise"] - r["low"] for r in mine], [r["high"] - r["rise"] for r in mine]]
            rates = [found["wer"] + r["rise"] for r in mine]
            sizes = [r["bytes"] / found["bytes"] for r in mine]
            colour = f"C{list(dict.fromkeys(m for m, _ in WAYS)).index(method)}"
            axis.errorbar(sizes, rates, spread, marker="o", capsize=2, label=method, color=colour)
        axis.axhline(found["wer"], color="black", linewidth=0.8)
        axis.set_title(library.load(found["model"]).header.name)
        axis.set_xlabel("bytes, as a share of f32")
        axis.set_ylabel("WER, greedy")
    axes[0][0].legend()
    figure.tight_layout()
    figure.savefig(output, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?")
    parser.add_argument("manifest", nargs="?")
    parser.add_argument("--calibration")
    parser.add_argument("--each", type=int, default=1, help="every so manieth utterance")
    parser.add_argument("--ways", nargs="*", help="METHOD:BITS, such as gptq:3; all by default")
    parser.add_argument("--kinds", action="store_true", help="one kind of layer at a time")
    parser.add_argument("--figure", nargs="+", metavar="FILE", help="draw what was measured")
    parser.add_argument("--output", required=True)
    args = parser.parse_args()
    if args.figure:
        draw(args.figure, args.output)
    else:
        measure(args)


if __name__ == "__main__":
    main()
