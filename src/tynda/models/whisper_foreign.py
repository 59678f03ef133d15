"""Whisper in the formats of whisper.cpp and of CTranslate2 (faster-whisper)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tynda.models.foreign import CTranslate2, Ggml, Part, Translated
from tynda.text.whisper import spelled

__all__ = [
    "LANGUAGES",
    "from_ctranslate2",
    "from_ggml",
    "ggml_name",
    "known_heads",
    "special_tokens",
]

_CODES = (
    "en zh de es ru ko fr ja pt tr pl ca nl ar sv it id hi fi vi he uk el ms cs ro da hu ta no th "
    "ur hr bg lt la mi ml cy sk te fa lv bn sr az sl kn et mk br eu is hy ne mn bs kk sq sw gl mr "
    "pa si km sn yo so af oc ka be tg sd gu am yi lo uz fo ht ps tk nn mt sa lb my bo tl mg as tt "
    "haw ln ha ba jw su yue"
)
LANGUAGES = tuple(_CODES.split(" "))
"""The languages in the order of their tokens; the last came with large-v3."""

_VOCAB = range(51864, 51867)
"""Numbers of tokens: of the English-only models, of the others, and of those since large-v3."""
_MIN_TOKENS = 50256
"""The pieces of text of the English-only models; the others have an empty one behind them."""
_TIMESTAMPS = 1501
_GELU = 3
"""The number of this activation in CTranslate2."""

# Alignment heads of OpenAI's models, "layer.head", by layers of encoder and decoder and number of
# tokens. The two older large models have the same sizes and other heads, so that they have none.
_HEADS = {
    (4, 4, 51864): "1.0 2.0 2.5 3.0 3.1 3.2 3.3 3.4",
    (4, 4, 51865): "2.2 3.0 3.2 3.3 3.4 3.5",
    (6, 6, 51864): "3.3 4.7 5.1 5.5 5.7",
    (6, 6, 51865): "3.1 4.2 4.3 4.7 5.1 5.2 5.4 5.6",
    (12, 12, 51864): "6.6 7.0 7.3 7.8 8.2 8.5 8.7 9.0 9.4 9.8 9.10 10.0 10.1 10.2 10.3 10.6 10.11 "
    "11.2 11.4",
    (12, 12, 51865): "5.3 5.9 8.0 8.4 8.7 8.8 9.0 9.7 9.9 10.5",
    (24, 24, 51864): "11.4 14.1 14.12 14.14 15.4 16.0 16.4 16.9 17.12 17.14 18.7 18.10 18.15 20.0 "
    "20.3 20.9 20.14 21.12",
    (24, 24, 51865): "13.15 15.4 15.15 16.1 20.0 23.4",
    (32, 32, 51866): "7.0 10.17 12.18 13.12 16.1 17.14 19.11 21.4 24.1 25.6",
    (32, 4, 51866): "2.4 2.11 3.3 3.6 3.11 3.14",
}

# Part of a name on the hub -> whisper.cpp's; the first that occurs is replaced first.
_GGML = {
    "embed_positions.weight": "positional_embedding",
    "embed_tokens": "token_embedding",
    "encoder.layer_norm": "encoder.ln_post",
    "decoder.layer_norm": "decoder.ln",
    "layers": "blocks",
    "self_attn_layer_norm": "attn_ln",
    "encoder_attn_layer_norm": "cross_attn_ln",
    "final_layer_norm": "mlp_ln",
    "encoder_attn": "cross_attn",
    "self_attn": "attn",
    "q_proj": "query",
    "k_proj": "key",
    "v_proj": "value",
    "out_proj": "out",
    "fc1": "mlp.0",
    "fc2": "mlp.2",
}

_NAME = re.compile(r"model\.(encoder|decoder)\.(?:layers\.(\d+)\.)?(.*)\.(weight|bias)")
"""A name on the hub: side, layer, what is inside, and weight or bias."""

# Part of a layer's name on the hub -> CTranslate2's name, and the index among fused projections.
_CTRANSLATE2 = {
    "self_attn.q_proj": ("self_attention/linear_0", 0),
    "self_attn.k_proj": ("self_attention/linear_0", 1),
    "self_attn.v_proj": ("self_attention/linear_0", 2),
    "self_attn.out_proj": ("self_attention/linear_1", None),
    "self_attn_layer_norm": ("self_attention/layer_norm", None),
    "encoder_attn.q_proj": ("attention/linear_0", None),
    "encoder_attn.k_proj": ("attention/linear_1", 0),
    "encoder_attn.v_proj": ("attention/linear_1", 1),
    "encoder_attn.out_proj": ("attention/linear_2", None),
    "encoder_attn_layer_norm": ("attention/layer_norm", None),
    "fc1": ("ffn/linear_0", None),
    "fc2": ("ffn/linear_1", None),
    "final_layer_norm": ("ffn/layer_norm", None),
}


def from_ggml(file: Ggml) -> Translated:
    """Return what a file of whisper.cpp states; raises ValueError where it is no Whisper's."""
    vocab, frames, channels, heads, layers, context, width, text_heads, text_layers, bins = (
        file.sizes
    )
    if vocab not in _VOCAB:
        raise ValueError(f"it states {vocab} tokens; a Whisper has {_VOCAB[0]} to {_VOCAB[-1]}")
    if channels != width:
        raise ValueError(f"encoder and decoder have {channels} and {width} channels")
    if len(file.tokens) < _MIN_TOKENS:
        raise ValueError(f"it lists {len(file.tokens)} tokens, not {_MIN_TOKENS} or more")
    special = special_tokens(vocab)
    eot = special["<|endoftext|>"]
    settings = _settings(bins, vocab, channels, frames, context) | {"eos_token_id": eot}
    settings |= _layers("encoder", layers, heads, 4 * channels)
    settings |= _layers("decoder", text_layers, text_heads, 4 * channels)
    names = [spelled(token) for token in file.tokens[:eot]]
    heads_of_words = known_heads(layers, text_layers, vocab)
    return Translated(
        settings, _files(_tokenizer(names, special), heads_of_words), lambda x: Part(ggml_name(x))
    )


def special_tokens(vocab: int) -> dict[str, int]:
    """Return the special tokens, except timestamps, of a model with so many tokens.

    English-only models have tokens of 99 languages as well.
    """
    languages = LANGUAGES[: 99 if vocab < _VOCAB[-1] else 100]
    names = [
        *("endoftext", "startoftranscript", *languages, "translate", "transcribe"),
        *("startoflm", "startofprev", "nospeech", "notimestamps"),
    ]
    first = vocab - _TIMESTAMPS - len(names)
    return {f"<|{name}|>": first + i for i, name in enumerate(names)}


def known_heads(layers: int, text_layers: int, vocab: int) -> list[tuple[int, int]]:
    """Return the alignment heads of OpenAI's model of these sizes, if there is exactly one."""
    pairs = (pair.split(".") for pair in _HEADS.get((layers, text_layers, vocab), "").split())
    return [(int(layer), int(head)) for layer, head in pairs]


def from_ctranslate2(file: CTranslate2) -> Translated:
    """Return what a folder of CTranslate2 states.

    Raises KeyError, naming a tensor that is missing, and ValueError for what this definition of
    the model does not cover.
    """
    shapes, scalars = file.shapes, file.scalars
    if scalars.get("decoder/activation", _GELU) != _GELU:
        raise ValueError("its activation is not gelu")
    if scalars.get("decoder/pre_norm", 1) != 1:
        raise ValueError("its norms follow the layers")
    channels, bins, _ = _axes(shapes, "encoder/conv1/weight", 3)
    vocab, _ = _axes(shapes, "decoder/embeddings/weight", 2)
    frames, _ = _axes(shapes, "encoder/position_encodings/encodings", 2)
    context, _ = _axes(shapes, "decoder/position_encodings/encodings", 2)
    settings = _settings(bins, vocab, channels, frames, context)
    for side in ("encoder", "decoder"):
        hidden, _ = _axes(shapes, f"{side}/layer_0/ffn/linear_0/weight", 2)
        found = (re.match(rf"{side}/layer_(\d{{1,5}})/", name) for name in shapes)
        layers = 1 + max(int(layer[1]) for layer in found if layer)
        settings |= _layers(side, layers, scalars[f"{side}/num_heads"], hidden)
    names = list(file.vocabulary)
    special = {name: i for i, name in enumerate(names) if re.fullmatch(r"<\|.*\|>", name)}
    tokenizer = file.tokenizer or _tokenizer(names, special)
    return Translated(
        settings,
        _files(tokenizer, file.config.get("alignment_heads")),
        lambda name: _ctranslate2_part(name, channels),
    )


def _settings(bins: int, vocab: int, channels: int, frames: int, context: int) -> dict[str, Any]:
    return {
        "num_mel_bins": bins,
        "vocab_size": vocab,
        "d_model": channels,
        "max_source_positions": frames,
        "max_target_positions": context,
    }


def _layers(side: str, layers: int, heads: int, hidden: int) -> dict[str, Any]:
    return {
        f"{side}_layers": layers,
        f"{side}_attention_heads": heads,
        f"{side}_ffn_dim": hidden,
    }


def _files(tokenizer: Mapping[str, Any], heads: Any) -> dict[str, Mapping[str, Any]]:
    return {"tokenizer.json": tokenizer, "generation_config.json": {"alignment_heads": heads}}


def _tokenizer(names: Sequence[str], special: Mapping[str, int]) -> dict[str, Any]:
    """Return a ``tokenizer.json`` without merges, which follow from the order of tokens."""
    vocab = {name: i for i, name in enumerate(names) if name and name not in special}
    added = [{"content": name, "id": token} for name, token in special.items()]
    return {"model": {"vocab": vocab}, "added_tokens": added}


def _axes(shapes: Mapping[str, tuple[int, ...]], name: str, count: int) -> tuple[int, ...]:
    """Return the shape of a tensor; raises KeyError where it is missing."""
    if len(shapes[name]) != count:
        raise ValueError(f"tensor {name} has {len(shapes[name])} axes, not {count}")
    return shapes[name]


def ggml_name(name: str) -> str:
    """Return whisper.cpp's name for a tensor of the hub."""
    name = name.removeprefix("model.")
    for theirs, ours in _GGML.items():
        name = name.replace(theirs, ours)
    return name


def _ctranslate2_part(name: str, channels: int) -> Part:
    """Return the rows of a tensor in CTranslate2, which fuses projections of the same input."""
    side, layer, inner, kind = _NAME.fullmatch(name).groups()  # type: ignore[union-attr]
    if inner == "embed_positions":
        return Part(f"{side}/position_encodings/encodings")
    if inner == "embed_tokens":
        return Part(f"{side}/embeddings/weight")
    found, index = (inner, None) if layer is None else _CTRANSLATE2[inner]
    if found.endswith("layer_norm"):
        kind = {"weight": "gamma", "bias": "beta"}[kind]
    path = "/".join([side, *([f"layer_{layer}"] if layer else []), found, kind])
    return Part(path) if index is None else Part(path, index * channels, (index + 1) * channels)
