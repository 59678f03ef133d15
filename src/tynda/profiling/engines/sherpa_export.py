"""Exports Whisper from a Hugging Face folder to the two graphs of sherpa-onnx.

Names, shapes and metadata are those of sherpa-onnx's ``scripts/whisper/export-onnx.py``, which
only reads checkpoints of openai-whisper.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tynda.heads.seq2seq.search import start_tokens
from tynda.profiling.engines.exported import write_onnx
from tynda.profiling.engines.whisper_graphs import module
from tynda.store import huggingface
from tynda.text.whisper import WhisperTokenizer

__all__ = ["export"]


def export(folder: Path, path: Path) -> WhisperTokenizer:
    """Write both graphs, with the model's metadata in that of the encoder; return the tokenizer."""
    import onnx
    import torch
    from transformers import WhisperForConditionalGeneration

    torch.set_grad_enabled(False)
    kind: Any = WhisperForConditionalGeneration
    whole = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()
    config = whole.config
    tokenizer: WhisperTokenizer = huggingface.load(folder, weights=False).tokenizer
    names: dict[str, tuple[int, ...]]
    names = {"mel": (0, 2), "n_layer_cross_k": (1, 2), "n_layer_cross_v": (1, 2)}
    mel = torch.zeros(1, config.num_mel_bins, 2 * config.max_source_positions)
    write_onnx(module(_encode, whole), (mel,), path / "encoder.onnx", names)
    layers, width = config.decoder_layers, config.d_model
    cache = torch.zeros(layers, 1, config.max_target_positions, width)
    cross = torch.zeros(layers, 1, config.max_source_positions, width)
    tokens, offset = torch.zeros(1, 1, dtype=torch.int64), torch.tensor([3])
    names = {"tokens": (0, 1), "in_n_layer_self_k_cache": (1,), "in_n_layer_self_v_cache": (1,)}
    names |= {"n_layer_cross_k": (1, 2), "n_layer_cross_v": (1, 2), "offset": ()}
    names |= {"logits": (0, 1), "out_n_layer_self_k_cache": (1,), "out_n_layer_self_v_cache": (1,)}
    given = (tokens, cache, cache.clone(), cross, cross.clone(), offset)
    write_onnx(module(_decode, whole), given, path / "decoder.onnx", names)
    graph: Any = onnx.load(str(path / "encoder.onnx"))
    for key, value in _describe(folder.name, config, tokenizer).items():
        graph.metadata_props.add(key=key, value=str(value))
    onnx.save(graph, str(path / "encoder.onnx"))
    return tokenizer


def _encode(whole: Any, mel: Any) -> Any:
    """Return the cross-attention keys and values of all decoder layers, for up to one window."""
    import torch

    encoder, decoder = whole.model.encoder, whole.model.decoder
    x = torch.nn.functional.gelu(encoder.conv1(mel))
    x = torch.nn.functional.gelu(encoder.conv2(x)).transpose(1, 2)
    x = x + encoder.embed_positions.weight[: x.shape[1]]
    for layer in encoder.layers:
        normal, attend = layer.self_attn_layer_norm(x), layer.self_attn
        keys, values = attend.k_proj(normal), attend.v_proj(normal)
        x = x + _attend(attend, normal, keys, values)
        x = x + _feed(layer, x)
    x = encoder.layer_norm(x)
    pairs = [(y.encoder_attn.k_proj(x), y.encoder_attn.v_proj(x)) for y in decoder.layers]
    return torch.stack([k for k, _ in pairs]), torch.stack([v for _, v in pairs])


def _decode(
    whole: Any, tokens: Any, k: Any, v: Any, cross_k: Any, cross_v: Any, offset: Any
) -> Any:
    """Run the decoder on tokens at ``offset``, with the KV cache of the tokens before."""
    import torch

    decoder, count = whole.model.decoder, tokens.shape[1]
    end = offset[0] + count
    x = decoder.embed_tokens(tokens) + decoder.embed_positions.weight[offset[0] : end]
    places = torch.arange(k.shape[2])
    mask = places[None, :end] > (offset[0] + torch.arange(count))[:, None]
    mask = torch.zeros(mask.shape).masked_fill(mask, -torch.inf)
    for i, layer in enumerate(decoder.layers):
        normal, attend = layer.self_attn_layer_norm(x), layer.self_attn
        k[i, :, offset[0] : end] = attend.k_proj(normal)
        v[i, :, offset[0] : end] = attend.v_proj(normal)
        x = x + _attend(attend, normal, k[i, :, :end], v[i, :, :end], mask)
        normal = layer.encoder_attn_layer_norm(x)
        x = x + _attend(layer.encoder_attn, normal, cross_k[i], cross_v[i])
        x = x + _feed(layer, x)
    # The embeddings are the left factor: transposed, they would be stored a second time.
    logits = decoder.embed_tokens.weight @ decoder.layer_norm(x).transpose(1, 2)
    return logits.transpose(1, 2), k, v


def _attend(attention: Any, x: Any, keys: Any, values: Any, mask: Any = 0) -> Any:
    """Compute multi-head attention with ``keys`` and ``values [batch, n, channels]``."""
    heads, scale = attention.num_heads, attention.head_dim**-0.5

    def split(y: Any) -> Any:
        return y.view(y.shape[0], -1, heads, attention.head_dim).transpose(1, 2)

    weights = split(attention.q_proj(x) * scale) @ split(keys).transpose(2, 3) + mask
    found = weights.softmax(-1) @ split(values)
    return attention.out_proj(found.transpose(1, 2).reshape(x.shape))


def _feed(layer: Any, x: Any) -> Any:
    import torch

    return layer.fc2(torch.nn.functional.gelu(layer.fc1(layer.final_layer_norm(x))))


def _describe(name: str, config: Any, tokenizer: WhisperTokenizer) -> dict[str, Any]:
    """Return the metadata that the script writes."""
    multilingual = tokenizer.multilingual
    language = next(iter(tokenizer.languages)) if multilingual else None

    def listed(values: Any) -> str:
        return ",".join(map(str, values))

    return {
        **{"model_type": f"whisper-{name}", "version": "1", "maintainer": "k2-fsa"},
        **{"n_mels": config.num_mel_bins, "n_audio_ctx": config.max_source_positions},
        **{"n_audio_state": config.d_model, "n_audio_head": config.encoder_attention_heads},
        **{"n_audio_layer": config.encoder_layers, "n_vocab": config.vocab_size},
        **{"n_text_ctx": config.max_target_positions, "n_text_state": config.d_model},
        **{"n_text_head": config.decoder_attention_heads, "n_text_layer": config.decoder_layers},
        "sot_sequence": listed(start_tokens(tokenizer, language, "transcribe")),
        "all_language_tokens": listed(tokenizer.languages.values()),
        "all_language_codes": listed(tokenizer.languages),
        **{"sot": tokenizer.sot, "sot_index": 0, "eot": tokenizer.eot},
        "blank_id": tokenizer.spell(" ")[0],
        "is_multilingual": int(multilingual),
        "no_speech": tokenizer.no_speech,
        "non_speech_tokens": listed(sorted(tokenizer.non_speech)),
        **{"transcribe": tokenizer.transcribe, "translate": tokenizer.translate},
        **{"sot_prev": tokenizer.sot_prev, "sot_lm": tokenizer.sot_lm},
        "no_timestamps": tokenizer.no_timestamps,
    }
