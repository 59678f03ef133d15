"""Outputs of reference implementations, which tests/parity/*.json record.

``python tests/parity_reference.py`` computes those of every manifest again and writes them down:
to be run when a reference changes its version, and its changes to be explained.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

Floats = NDArray[np.float32]
FOLDER = Path(__file__).parent / "parity"
VALUES = 24
"""Numbers of an output that a manifest records."""


def read(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def build(manifest: Mapping[str, Any]) -> Any:
    """The reference's model, in the shape of a published checkpoint, with random weights.

    The weights are NumPy's, by the names of tensors: PyTorch's own beginnings may change with its
    version, and start norms and biases at values that would hide a mistake.
    """
    reference = manifest["reference"]
    config = getattr(transformers, reference["config"])(**manifest["settings"])
    model = getattr(transformers, reference["class"])(config).eval()
    kept = tuple(manifest.get("kept", ()))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype != torch.float32 or name.startswith(kept or ("-",)):
                continue
            rng = np.random.default_rng([manifest["seed"], zlib.crc32(name.encode())])
            noise = torch.from_numpy(rng.standard_normal(tuple(value.shape), dtype=np.float32))
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs())
            elif value.ndim > 1:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value.copy_(0.2 * noise + (0 if name.endswith("bias") else 1))
    return model


def features(manifest: Mapping[str, Any]) -> Floats:
    """Random features ``[1, frames, bins]``."""
    rng = np.random.default_rng(manifest["seed"])
    return rng.standard_normal((1, *manifest["features"]), dtype=np.float32)


def tokens(manifest: Mapping[str, Any], vocab: int) -> NDArray[np.int64]:
    """Random tokens ``[1, n]`` that a decoder is made to follow."""
    return np.random.default_rng(manifest["seed"]).integers(0, vocab, (1, manifest["tokens"]))


def _whisper(manifest: Mapping[str, Any], model: Any) -> dict[str, Floats]:
    x = torch.from_numpy(features(manifest)).transpose(1, 2)
    ids = torch.from_numpy(tokens(manifest, model.config.vocab_size))
    found = model(x, decoder_input_ids=ids)
    return {"states": found.encoder_last_hidden_state.numpy(), "logits": found.logits.numpy()}


def _wav2vec2(manifest: Mapping[str, Any], model: Any) -> dict[str, Floats]:
    logits = model(torch.from_numpy(features(manifest)[..., 0])).logits
    return {"log_probs": logits.log_softmax(-1).numpy()}


def _parakeet(manifest: Mapping[str, Any], model: Any) -> dict[str, Floats]:
    logits = model(torch.from_numpy(features(manifest))).logits
    blank = model.config.pad_token_id
    order = [blank, *(i for i in range(model.config.vocab_size) if i != blank)]
    return {"log_probs": logits.log_softmax(-1)[..., order].numpy()}


def _moonshine(manifest: Mapping[str, Any], model: Any) -> dict[str, Floats]:
    ids = torch.from_numpy(tokens(manifest, model.config.vocab_size))
    values = torch.from_numpy(features(manifest)[..., 0])
    encoded = model.model.encoder(values, attention_mask=torch.ones_like(values, dtype=torch.long))
    states = encoded.last_hidden_state.clone()
    if hasattr(model.config, "encoder_config"):
        # The decoder adds positions to the states, in place, and projects them; in tynda the
        # encoder does both.
        decoder = model.model.decoder
        states = decoder.proj(states + decoder.pos_emb(torch.arange(states.shape[1])))
    logits = model(encoder_outputs=encoded, decoder_input_ids=ids).logits
    return {"states": states.numpy(), "logits": logits.numpy()}


RUNS: dict[str, Callable[[Mapping[str, Any], Any], dict[str, Floats]]] = {
    "whisper": _whisper,
    "wav2vec2": _wav2vec2,
    "parakeet": _parakeet,
    "moonshine": _moonshine,
    "moonshine_streaming": _moonshine,
}


def outputs(manifest: Mapping[str, Any], model: Any) -> dict[str, Floats]:
    """Return the reference's outputs, by the names that manifests use."""
    with torch.no_grad():
        return RUNS[manifest["family"]](manifest, model)


def sample(output: Floats) -> Floats:
    """`VALUES` numbers from all over an output."""
    flat = output.reshape(-1)
    return flat[np.linspace(0, len(flat) - 1, VALUES).astype(int)]


def main() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        manifest = json.loads(path.read_text(encoding="utf-8"))
        manifest["reference"]["version"] = transformers.__version__
        found = outputs(manifest, build(manifest))
        manifest["golden"] = {
            name: {
                "max": float(f"{np.abs(output).max():.6g}"),
                "values": [float(f"{value:.6g}") for value in sample(output)],
                "best": output.argmax(-1).reshape(-1)[:VALUES].tolist(),
            }
            for name, output in found.items()
        }
        path.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        print(path.stem)


if __name__ == "__main__":
    main()
