"""How much each part of a Whisper loses when it alone is in few bits.

    python bench/sensitivity.py MODEL MANIFEST [--bits 4 3] [--utterances 28]

The measure is that of ``bench/divergence.py``: the decoder is forced to follow the text of full
precision, and the mean Kullback-Leibler divergence of the next token's distribution from it is
printed, in nats for each token. Weights are rounded by `clip` in groups of 32, without calibration,
and products are in 32 bits.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path

from divergence import divergence, log_probabilities
from tynda.model import Model
from tynda.quantization.calibrate import Calibration
from tynda.quantization.methods import round_weight
from tynda.store import library
from tynda.weights.grid import Grid
from tynda.weights.weight import floats, is_matrix_product

_PARTS = [
    ("embedding (and output layer)", r"embed_tokens"),
    ("encoder", r"model\.encoder\."),
    ("... its two convolutions", r"model\.encoder\.conv"),
    ("... attention", r"model\.encoder\..*self_attn"),
    ("... feed-forward", r"model\.encoder\..*fc"),
    ("decoder's layers", r"model\.decoder\.layers"),
    ("... self-attention", r"model\.decoder\..*self_attn"),
    ("... cross-attention", r"model\.decoder\..*encoder_attn"),
    ("... feed-forward", r"model\.decoder\..*fc"),
    ("all", r"."),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--bits", type=float, nargs="+", default=[4, 3])
    parser.add_argument("--utterances", type=int, default=28)
    args = parser.parse_args()
    model = library.load(args.model)
    weights = {name: floats(weight) for name, weight in model.weights.items()}
    trainable = model.family.trainable(model.config)
    matrices = [n for n, w in weights.items() if is_matrix_product(w.shape, trainable[n])]
    calibration = Calibration(model, args.manifest, args.utterances)
    exact = Model(model, bits=32).head.engine
    expected = [log_probabilities(calibration, exact, i) for i in range(len(calibration.inputs))]
    print(f"{len(expected)} utterances, {sum(map(len, expected))} tokens")
    print("| tensors in few bits | " + " | ".join(f"{bits:g} bits" for bits in args.bits) + " |")
    print("|---" * (1 + len(args.bits)) + "|")
    rounded = {
        bits: {n: round_weight(weights[n], Grid(bits, 32), "clip").dequantize() for n in matrices}
        for bits in args.bits
    }
    for part, pattern in _PARTS:
        cells = []
        for bits in args.bits:
            chosen = {n: w for n, w in rounded[bits].items() if re.search(pattern, n)}
            engine = Model(replace(model, weights=weights | chosen), bits=32).head.engine
            nats, _ = divergence(calibration, engine, expected)
            cells.append(f"{nats:.4f}")
        print(f"| {part} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
