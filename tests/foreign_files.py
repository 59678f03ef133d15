"""Writes a Whisper of the Hugging Face hub in the formats of whisper.cpp and of CTranslate2."""

import json
import struct

import numpy as np
from safetensors.numpy import load_file, save_file

from tynda.models import whisper
from tynda.models.whisper_foreign import LANGUAGES
from tynda.sound.mel import mel_filters
from tynda.text.whisper import spelled
from whisper_peer import openai_name

GGML = {"f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
GGML_FILES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2002,
    "q4_1": 2003,
    "q8_0": 2007,
    "q5_0": 2008,
    "q5_1": 2009,
}
"""The type of a file, to which the version of the quantised formats adds 2000."""
CTRANSLATE2 = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4, "bfloat16": 5}
BYTES = {"float32": "<f4", "int8": "i1", "int16": "<i2", "float16": "<f2"}


def read_folder(folder):
    """The settings, the tensors as float32 and ``tokenizer.json`` of a folder."""
    tensors = load_file(folder / "model.safetensors")
    return (
        json.loads((folder / "config.json").read_text()),
        {name: value.astype(np.float32) for name, value in tensors.items()},
        json.loads((folder / "tokenizer.json").read_text()),
    )


def write_small_folder(folder):
    """A random model of the hub that spells texts in single bytes."""
    sizes = {
        "model_type": "whisper",
        "num_mel_bins": 80,
        "d_model": 32,
        "max_source_positions": 10,
        "max_target_positions": 448,
    }
    for side in ("encoder", "decoder"):
        numbers = {"layers": 1, "attention_heads": 2, "ffn_dim": 128}
        sizes |= {f"{side}_{name}": number for name, number in numbers.items()}
    words = ("endoftext", "startoftranscript", *LANGUAGES[:99], "translate", "transcribe")
    words += ("startoflm", "startofprev", "nospeech", "notimestamps")
    vocab = {spelled(bytes([i])): i for i in range(256)}
    added = [{"content": f"<|{word}|>", "id": 256 + i} for i, word in enumerate(words)]
    sizes["vocab_size"] = 256 + len(words) + 11
    rng = np.random.default_rng(0)
    specs = whisper.specs(whisper.FAMILY.configure(whisper.settings(sizes)))
    weights = {k: rng.standard_normal(v.shape).astype(np.float16) for k, v in specs.items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(sizes))
    tokenizer = {"model": {"vocab": vocab, "merges": []}, "added_tokens": added}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    save_file(weights, folder / "model.safetensors")
    return folder


def half(value):
    return value.astype("<f2").view(np.uint8)


def bfloat16(value):
    return (np.ascontiguousarray(value, "<f4").view("<u4") >> 16).astype("<u2")


def block(value, kind):
    """Weights in blocks of 32 ``[blocks, bytes]``, in plain steps from ggml's description."""
    rows = value.reshape(-1, 32)
    if kind == "q8_0":
        scale = np.abs(rows).max(1, keepdims=True) / 127 + 1e-9
        return np.concatenate([half(scale), np.rint(rows / scale).astype(np.int8).view("u1")], 1)
    bits = int(kind[1])
    if kind.endswith("_1"):
        low = rows.min(1, keepdims=True)
        scale = (rows.max(1, keepdims=True) - low) / (2**bits - 1) + 1e-9
        codes = np.rint((rows - low) / scale)
        parts = [half(scale), half(low)]
    else:
        middle = 2 ** (bits - 1)
        scale = np.abs(rows).max(1, keepdims=True) / middle + 1e-9
        codes = np.rint(rows / scale) + middle
        parts = [half(scale)]
    codes = codes.clip(0, 2**bits - 1).astype(np.uint8)
    if bits == 5:
        fifth = [sum(int(c >> 4) << i for i, c in enumerate(row)) for row in codes]
        parts.append(np.array(fifth, "<u4").view(np.uint8).reshape(-1, 4))
    return np.concatenate([*parts, codes[:, :16] & 15 | codes[:, 16:] << 4], 1)


def ggml_bytes(value, kind):
    """The data of a tensor."""
    if kind == "bf16":
        return bfloat16(value).tobytes()
    if kind in ("f32", "f16"):
        return value.astype({"f32": "<f4", "f16": "<f2"}[kind]).tobytes()
    return block(value, kind).tobytes()


def ggml_tensor(name, value, kind, data=None):
    """A tensor with its description; ``data`` replaces its data."""
    about = struct.pack("<3i", value.ndim, len(name.encode()), GGML[kind])
    axes = struct.pack(f"<{value.ndim}i", *value.shape[::-1])
    return about + axes + name.encode() + (ggml_bytes(value, kind) if data is None else data)


def ggml_head(settings, tokens, file_kind=1, **changes):
    """All that precedes the tensors; ``changes`` replace sizes."""
    sizes = {
        "vocab": settings["vocab_size"],
        "frames": settings["max_source_positions"],
        "channels": settings["d_model"],
        "heads": settings["encoder_attention_heads"],
        "layers": settings["encoder_layers"],
        "context": settings["max_target_positions"],
        "width": settings["d_model"],
        "text_heads": settings["decoder_attention_heads"],
        "text_layers": settings["decoder_layers"],
        "bins": settings["num_mel_bins"],
        "type": file_kind,
    } | changes
    filters = np.ascontiguousarray(mel_filters(settings["num_mel_bins"], 400, 0.0, 8000.0).T, "<f4")
    head = b"lmgg" + struct.pack("<11i", *sizes.values())
    head += struct.pack("<2i", *filters.shape) + filters.tobytes() + struct.pack("<i", len(tokens))
    return head + b"".join(struct.pack("<I", len(token)) + token for token in tokens)


def token_bytes(tokenizer):
    """The bytes of each token of text, in GPT-2's spelling, from ``tokenizer.json``."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(b): b for b in printable}
    letters |= {chr(256 + i): b for i, b in enumerate(b for b in range(256) if b not in printable)}
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    vocab = {t: name for name, t in tokenizer["model"]["vocab"].items() if name not in special}
    names = [vocab.get(i, "") for i in range(special["<|endoftext|>"])]
    return [bytes(letters[letter] for letter in name) for name in names]


def write_ggml(path, folder, kind, quantize=ggml_bytes):
    """A file whose matrices have this type; vectors and positions are in f32."""
    settings, tensors, tokenizer = read_folder(folder)
    data = ggml_head(settings, token_bytes(tokenizer), GGML_FILES.get(kind, 1))
    for name, value in tensors.items():
        name = openai_name(name).removeprefix("model.")
        value = value[:, None] if name in ("encoder.conv1.bias", "encoder.conv2.bias") else value
        used = "f32" if name.endswith("bias") or "positional" in name or value.ndim == 1 else kind
        used = "f16" if kind[0] == "q" and used == kind and value.ndim == 3 else used
        data += ggml_tensor(name, value, used, quantize(value, used))
    path.write_bytes(data)
    return path


def fused(settings, tensors):
    """CTranslate2's names and tensors: projections of the same input are one tensor."""
    out = {}

    def put(theirs, *ours):
        for kind in ("weight", "bias"):
            parts = [tensors.get(f"{name}.{kind}") for name in ours]
            like = next(part for part in parts if part is not None)
            parts = [np.zeros_like(like) if part is None else part for part in parts]
            out[f"{theirs}/{kind}"] = np.concatenate(parts)

    def norm(theirs, ours):
        out[f"{theirs}/gamma"], out[f"{theirs}/beta"] = (
            tensors[f"{ours}.{kind}"] for kind in ("weight", "bias")
        )

    for i in (1, 2):
        put(f"encoder/conv{i}", f"model.encoder.conv{i}")
    out["decoder/embeddings/weight"] = tensors["model.decoder.embed_tokens.weight"]
    for side in ("encoder", "decoder"):
        positions = tensors[f"model.{side}.embed_positions.weight"]
        out[f"{side}/position_encodings/encodings"] = positions
        norm(f"{side}/layer_norm", f"model.{side}.layer_norm")
        for i in range(settings[f"{side}_layers"]):
            old, new = f"model.{side}.layers.{i}", f"{side}/layer_{i}"
            put(f"{new}/self_attention/linear_0", *(f"{old}.self_attn.{x}_proj" for x in "qkv"))
            put(f"{new}/self_attention/linear_1", f"{old}.self_attn.out_proj")
            norm(f"{new}/self_attention/layer_norm", f"{old}.self_attn_layer_norm")
            if side == "decoder":
                put(f"{new}/attention/linear_0", f"{old}.encoder_attn.q_proj")
                put(f"{new}/attention/linear_1", *(f"{old}.encoder_attn.{x}_proj" for x in "kv"))
                put(f"{new}/attention/linear_2", f"{old}.encoder_attn.out_proj")
                norm(f"{new}/attention/layer_norm", f"{old}.encoder_attn_layer_norm")
            put(f"{new}/ffn/linear_0", f"{old}.fc1")
            put(f"{new}/ffn/linear_1", f"{old}.fc2")
            norm(f"{new}/ffn/layer_norm", f"{old}.final_layer_norm")
    return out


def text(name):
    data = name.encode() + b"\0"
    return struct.pack("<H", len(data)) + data


def ctranslate2_tensor(name, value, kind):
    """A tensor with its description; ``value`` is float32, or of the type already."""
    data = (bfloat16(value) if kind == "bfloat16" else value.astype(BYTES[kind])).tobytes()
    shape = struct.pack(f"<B{value.ndim}I", value.ndim, *value.shape)
    return text(name) + shape + struct.pack("<BI", CTRANSLATE2[kind], len(data)) + data


def ctranslate2_tensors(settings, tensors, kind):
    """The tensors of ``model.bin``, one after the other."""
    codes, _, floats = kind.partition("_")
    found = []
    for name, value in fused(settings, tensors).items():
        if name.endswith("/weight") and codes == "int8":
            scale = 127 / np.abs(value.reshape(len(value), -1)).max(1)
            value = np.rint(value * scale.reshape(-1, *[1] * (value.ndim - 1)))
            found.append(ctranslate2_tensor(name, value, "int8"))
            found.append(ctranslate2_tensor(f"{name}_scale", scale, "float32"))
        elif name.endswith("/weight") and codes == "int16":
            scale = np.float32(2**10 / np.abs(value).max())
            found.append(ctranslate2_tensor(name, np.rint(value * scale), "int16"))
            found.append(ctranslate2_tensor(f"{name}_scale", np.array(scale), "float32"))
        else:
            used = floats or ("float32" if codes.startswith("int") else codes)
            found.append(ctranslate2_tensor(name, value, used))
    for side in ("encoder", "decoder"):
        heads = np.array(settings[f"{side}_attention_heads"])
        found.append(ctranslate2_tensor(f"{side}/num_heads", heads, "int16"))
    found.append(ctranslate2_tensor("decoder/activation", np.array(3), "int8"))
    return found


def ctranslate2_bytes(tensors, spec="WhisperSpec", version=6, aliases=()):
    """``model.bin``."""
    data = struct.pack("<I", version) + text(spec) + struct.pack("<II", 3, len(tensors))
    data += b"".join(tensors) + struct.pack("<I", len(aliases))
    return data + b"".join(text(name) for pair in aliases for name in pair)


def write_ctranslate2(path, folder, kind, *, tokenizer=True, heads=None):
    """A folder as faster-whisper's: with ``tokenizer.json``, or with a vocabulary alone."""
    settings, tensors, described = read_folder(folder)
    aliases = [("decoder/projection/weight", "decoder/embeddings/weight")]
    path.mkdir()
    model = ctranslate2_bytes(ctranslate2_tensors(settings, tensors, kind), aliases=aliases)
    (path / "model.bin").write_bytes(model)
    (path / "config.json").write_text(json.dumps({"alignment_heads": heads}))
    names = described["model"]["vocab"] | {t["content"]: t["id"] for t in described["added_tokens"]}
    vocabulary = [f"<|{i}|>" for i in range(settings["vocab_size"])]
    for name, token in names.items():
        vocabulary[token] = name
    (path / "vocabulary.json").write_text(json.dumps(vocabulary))
    if tokenizer:
        (path / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    return path
