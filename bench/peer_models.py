"""Full-size models with random weights, in the formats of the engines that `peers.py` times.

    python bench/peer_models.py huggingface whisper-tiny OUT
    python bench/peer_models.py openvino int8 OUT FOLDER

Speed does not depend on the values of weights. FOLDER is the result of the first command. Formats
and precisions: openvino, onnx and ctranslate2 in f32 and int8, ggml in f16, q8_0, q5_0 and q4_0.
"""

from __future__ import annotations

import itertools
import json
import string
import sys
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {
    "whisper-tiny": (384, 4, 6),
    "whisper-base": (512, 6, 8),
    "whisper-small": (768, 12, 12),
    "whisper-medium": (1024, 24, 16),
    "wav2vec2-base": (768, 12, 12),
}
"""Channels, layers of the encoder and of the decoder, heads."""
EOT = 50257
PROMPT = [50258, 50259, 50359, 50363]
"""The tokens for start, English, transcribe, no timestamps."""

# Bytes in the order and spelling of GPT-2: printable ones come first.
_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_OTHERS = [b for b in range(256) if b not in _PRINTED]
_BYTES = {chr(b): b for b in _PRINTED} | {chr(256 + i): b for i, b in enumerate(_OTHERS)}


def noise(wav2vec2: bool) -> Any:
    """Return 10 s of samples ``[1, n]``, or log-mel features ``[1, bins, frames]`` of 30 s."""
    shape = (1, 160000) if wav2vec2 else (1, 80, 3000)
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def module(folder: Path) -> Any:
    """Whisper's encoder, or wav2vec 2.0 as a whole: one tensor in, one out."""
    import torch
    import transformers as t

    class First(torch.nn.Module):
        def __init__(self, whole: Any) -> None:
            super().__init__()
            self.whole = whole

        def forward(self, x: Any) -> Any:
            return self.whole(x)[0]

    if "wav2vec2" in folder.name:
        return First(t.Wav2Vec2ForCTC.from_pretrained(folder)).eval()
    return First(t.WhisperForConditionalGeneration.from_pretrained(folder).model.encoder).eval()


def huggingface(name: str, folder: Path) -> None:
    """Write the model in the layout of the Hugging Face hub."""
    import torch

    torch.manual_seed(0)
    (write_wav2vec2 if "wav2vec2" in name else write_whisper)(folder, *SIZES[name])


def openvino(kind: str, path: Path, folder: Path) -> None:
    import openvino as ov
    import torch

    x = noise("wav2vec2" in folder.name)
    graph = ov.convert_model(module(folder), example_input=torch.from_numpy(x))
    graph.reshape(list(x.shape))
    if kind == "int8":  # weights and activations
        import nncf

        kinds, data = nncf.ModelType, nncf.Dataset([x] * 3)
        graph = nncf.quantize(graph, data, subset_size=3, model_type=kinds.TRANSFORMER)
    ov.save_model(graph, path / "model.xml", compress_to_fp16=False)


def onnx(kind: str, path: Path, folder: Path) -> None:
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    x, model = torch.from_numpy(noise("wav2vec2" in folder.name)), path / "model.onnx"
    torch.onnx.export(module(folder), (x,), str(model), dynamo=False, opset_version=17)
    if kind == "int8":  # quantised convolutions would be slower
        only = {"op_types_to_quantize": ["MatMul"], "weight_type": QuantType.QInt8}
        quantize_dynamic(model, model, **only)


def ctranslate2(kind: str, path: Path, folder: Path) -> None:
    from ctranslate2.converters import TransformersConverter

    files = ["tokenizer.json", "preprocessor_config.json"]
    converter = TransformersConverter(str(folder), copy_files=files)
    converter.convert(str(path), quantization=kind.replace("f32", "float32"), force=True)


def ggml(kind: str, path: Path, folder: Path) -> None:
    """Write the file of whisper.cpp."""
    from tynda.profiling.engines import ggml

    ggml.write(folder, path / "model.bin", kind)


def _merges() -> list[tuple[str, str]]:
    """Return pieces of two to four letters, as many as Whisper has tokens after the bytes."""
    letters = string.ascii_lowercase
    pairs = ["".join(pair) for pair in itertools.product(letters, letters)]
    ways = itertools.chain.from_iterable(
        itertools.product(*way) for way in ((letters, letters), (pairs, letters), (pairs, pairs))
    )
    return list(itertools.islice(ways, EOT - 256))


def _tokens(merges: list[tuple[str, str]]) -> list[str]:
    return [*_BYTES, *map("".join, merges)]


def write_whisper(folder: Path, width: int, layers: int, heads: int) -> None:
    import transformers as t
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    sides = {
        f"{side}_{what}": size
        for side in ("encoder", "decoder")
        for what, size in (("layers", layers), ("attention_heads", heads), ("ffn_dim", 4 * width))
    }
    ends = {f"{what}_token_id": EOT for what in ("bos", "eos", "pad")}
    start = {"decoder_start_token_id": PROMPT[0]}
    config = t.WhisperConfig(vocab_size=51865, d_model=width, **sides, **ends, **start)
    model = t.WhisperForConditionalGeneration(config)
    # Special tokens have the logit 0, which is never the maximum: no text ends early.
    model.model.decoder.embed_tokens.weight.data[EOT:] = 0
    languages = list(LANGUAGES)[:99]
    model.generation_config = t.GenerationConfig(
        **ends,
        **start,
        is_multilingual=True,
        no_timestamps_token_id=PROMPT[-1],
        lang_to_id={f"<|{x}|>": PROMPT[1] + i for i, x in enumerate(languages)},
        task_to_id={"translate": PROMPT[2] - 1, "transcribe": PROMPT[2]},
        max_initial_timestamp_index=50,
    )
    model.save_pretrained(folder)
    t.WhisperFeatureExtractor().save_pretrained(folder)

    names = ["endoftext", "startoftranscript", *languages, "translate", "transcribe"]
    names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
    special = [f"<|{x}|>" for x in [*names, *(f"{i * 0.02:.2f}" for i in range(1501))]]
    merges = _merges()
    vocab = {token: i for i, token in enumerate([*_tokens(merges), special[0]])}
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (folder / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    _write(folder / "vocab.json", vocab)
    _write(folder / "added_tokens.json", {x: EOT + i for i, x in enumerate(special) if i})
    tokenizer = {"tokenizer_class": "WhisperTokenizer", "additional_special_tokens": special}
    tokenizer |= dict.fromkeys(("bos_token", "eos_token", "unk_token", "pad_token"), special[0])
    _write(folder / "tokenizer_config.json", tokenizer)
    t.WhisperTokenizer.from_pretrained(folder).save_pretrained(folder)  # tokenizer.json


def write_wav2vec2(folder: Path, width: int, layers: int, heads: int) -> None:
    import transformers as t

    config = t.Wav2Vec2Config(
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    t.Wav2Vec2ForCTC(config).save_pretrained(folder)
    t.Wav2Vec2FeatureExtractor().save_pretrained(folder)
    symbols = ["<pad>", "<s>", "</s>", "<unk>", "|", *string.ascii_uppercase, "'"]
    _write(folder / "vocab.json", {symbol: i for i, symbol in enumerate(symbols)})
    _write(folder / "tokenizer_config.json", {"tokenizer_class": "Wav2Vec2CTCTokenizer"})


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


if __name__ == "__main__":
    kind, paths = sys.argv[2], [Path(path) for path in sys.argv[3:]]
    paths[0].mkdir(parents=True, exist_ok=True)
    formats: tuple[Any, ...] = (huggingface, openvino, onnx, ctranslate2, ggml)
    {make.__name__: make for make in formats}[sys.argv[1]](kind, *paths)
