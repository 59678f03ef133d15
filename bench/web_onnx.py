"""Whisper as ONNX graphs, in the names and shapes that transformers.js reads.

    python bench/web_onnx.py FOLDER KIND OUT

FOLDER is a checkpoint of the Hugging Face hub, and OUT gets its configuration and the graphs
``encoder_model`` and ``decoder_model_merged``, as optimum writes them. KIND is f32 or q8. In q8,
products have weights in 8 bits and activations that are rounded as they come, by the same operators
as onnxruntime's `quantize_dynamic` writes, but with a scale for each output. The file format is
that of onnx.proto3 (opset 20), of which these graphs need so little that no library is needed.
"""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tynda.store import library

FLOAT, INT8, INT64, BOOL = 1, 3, 7, 9
TYPES = {"float32": FLOAT, "uint8": 2, "int8": INT8, "int32": 6, "int64": INT64}
SUFFIX = {"f32": "", "q8": "_quantized"}
"""The ends of the names of graphs by which transformers.js knows their precision."""


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: int | float | str | bytes) -> bytes:
    """A field of protobuf: an integer, a float32, or bytes with their length."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def fields(number: int, values: Iterable[int | float | str | bytes]) -> bytes:
    return b"".join(field(number, value) for value in values)


def tensor(name: str, array: NDArray[Any]) -> bytes:
    """A TensorProto."""
    dims = fields(1, array.shape)
    data = np.ascontiguousarray(array).tobytes()
    return dims + field(2, TYPES[str(array.dtype)]) + field(8, name) + field(9, data)


def described(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """A ValueInfoProto; an axis with a name has any length."""
    axes = [field(1, x) if isinstance(x, int) else field(2, x) for x in shape]
    return field(1, name) + field(2, field(1, field(1, kind) + field(2, fields(1, axes))))


def attribute(name: str, value: Any) -> bytes:
    """An AttributeProto: a float, an integer, integers, or a graph."""
    number, kind = {float: (2, 1), int: (3, 2), list: (8, 7), bytes: (6, 5)}[type(value)]
    body = fields(number, value) if isinstance(value, list) else field(number, value)
    return field(1, name) + body + field(20, kind)


class Graph:
    """A graph while it is built; `add` returns the name of a node's result."""

    def __init__(self, weights: Any, kind: str) -> None:
        self.weights, self.is_q8 = weights, kind == "q8"
        self.nodes: list[bytes] = []
        self.constants: dict[str, bytes] = {}
        self.count = 0

    def add(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        self.count += 1
        out = out or f"t{self.count}"
        some = [field(5, attribute(*each)) for each in attributes.items()]
        self.nodes.append(fields(1, inputs) + field(2, out) + field(4, operator) + b"".join(some))
        return out

    def several(self, operator: str, count: int, *inputs: str) -> list[str]:
        """Like `add`, for an operator with several results."""
        self.count += 1
        outs = [f"t{self.count}_{i}" for i in range(count)]
        self.nodes.append(fields(1, inputs) + fields(2, outs) + field(4, operator))
        return outs

    def constant(self, name: str, array: Any, dtype: str = "float32") -> str:
        if name not in self.constants:
            self.constants[name] = tensor(name, np.asarray(array, dtype))
        return name

    def ints(self, *values: int) -> str:
        return self.constant("ints" + "_".join(map(str, values)), values, "int64")

    def weight(self, name: str) -> str:
        return self.constant(name, self.weights[name])

    @contextmanager
    def branch(self, into: list[bytes]) -> Any:
        """Within the block, nodes are added to `into`."""
        nodes, self.nodes = self.nodes, into
        yield
        self.nodes = nodes

    def body(self, name: str, outputs: Sequence[bytes], inputs: Sequence[bytes] = ()) -> bytes:
        """A GraphProto of the nodes; the whole graph, which has inputs, holds the constants."""
        own = fields(5, self.constants.values()) if inputs else b""
        return (
            fields(1, self.nodes) + field(2, name) + own + fields(11, inputs) + fields(12, outputs)
        )

    def save(self, path: Path, inputs: Sequence[bytes], outputs: Sequence[bytes]) -> None:
        opset = field(1, "") + field(2, 20)
        graph = self.body("graph", outputs, inputs)
        path.write_bytes(field(1, 9) + field(7, graph) + field(8, opset))

    # ---- layers

    def product(self, x: str, name: str) -> str:
        """x [..., inputs] times a weight [outputs, inputs]."""
        if not self.is_q8:
            matrix = self.constant(f"{name}.T", np.asarray(self.weights[name]).T)
            return self.add("MatMul", x, matrix)
        w = np.asarray(self.weights[name])
        steps = np.abs(w).max(1, keepdims=True) / 127
        codes = self.constant(f"{name}.codes", np.rint(w / steps).T, "int8")
        scales = self.constant(f"{name}.scales", steps[:, 0])
        rounded, scale, zero = self.several("DynamicQuantizeLinear", 3, x)
        product = self.add("MatMulInteger", rounded, codes, zero)
        product = self.add("Cast", product, to=FLOAT)
        return self.add("Mul", product, self.add("Mul", scale, scales))

    def look_up(self, ids: str, name: str) -> str:
        """The rows of a weight, in the form that `product` has of it, so that it is there once."""
        matrix = f"{name}.codes" if self.is_q8 else f"{name}.T"
        rows = self.add("Transpose", self.add("Gather", matrix, ids, axis=1), perm=[1, 2, 0])
        if not self.is_q8:
            return rows
        scales = self.add("Gather", f"{name}.scales", ids)
        scales = self.add("Unsqueeze", scales, self.ints(2))
        return self.add("Mul", self.add("Cast", rows, to=FLOAT), scales)

    def linear(self, x: str, name: str) -> str:
        product = self.product(x, f"{name}.weight")
        if f"{name}.bias" not in self.weights:
            return product
        return self.add("Add", product, self.weight(f"{name}.bias"))

    def norm(self, x: str, name: str) -> str:
        parts = (self.weight(f"{name}.{part}") for part in ("weight", "bias"))
        return self.add("LayerNormalization", x, *parts, axis=-1, epsilon=1e-5)

    def split(self, x: str, heads: int) -> str:
        """[1, n, channels] to [1, heads, n, width]."""
        split = self.add("Reshape", x, self.ints(0, 0, heads, -1))
        return self.add("Transpose", split, perm=[0, 2, 1, 3])

    def attend(self, q: str, k: str, v: str, width: int, mask: str = "") -> str:
        scaled = self.add("Mul", q, self.constant(f"scale{width}", width**-0.5))
        scores = self.add("MatMul", scaled, self.add("Transpose", k, perm=[0, 1, 3, 2]))
        scores = self.add("Add", scores, mask) if mask else scores
        found = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        return self.add(
            "Reshape", self.add("Transpose", found, perm=[0, 2, 1, 3]), self.ints(0, 0, -1)
        )

    def feed_forward(self, x: str, name: str) -> str:
        y = self.linear(self.norm(x, f"{name}.final_layer_norm"), f"{name}.fc1")
        return self.add("Add", x, self.linear(self.add("Gelu", y), f"{name}.fc2"))


def encoder(graph: Graph, config: Any, path: Path) -> None:
    x, width = "input_features", config.channels // config.heads
    for name, stride in (("conv1", 1), ("conv2", 2)):
        parts = (graph.weight(f"model.encoder.{name}.{part}") for part in ("weight", "bias"))
        x = graph.add("Conv", x, *parts, kernel_shape=[3], pads=[1, 1], strides=[stride])
        x = graph.add("Gelu", x)
    x = graph.add("Transpose", x, perm=[0, 2, 1])
    x = graph.add("Add", x, graph.weight("model.encoder.embed_positions.weight"))
    for i in range(config.layers):
        name = f"model.encoder.layers.{i}"
        y = graph.norm(x, f"{name}.self_attn_layer_norm")
        q, k, v = (
            graph.split(graph.linear(y, f"{name}.self_attn.{p}_proj"), config.heads) for p in "qkv"
        )
        y = graph.linear(graph.attend(q, k, v, width), f"{name}.self_attn.out_proj")
        x = graph.feed_forward(graph.add("Add", x, y), name)
    parts = (graph.weight(f"model.encoder.layer_norm.{part}") for part in ("weight", "bias"))
    graph.add("LayerNormalization", x, *parts, axis=-1, epsilon=1e-5, out="last_hidden_state")
    states = described("last_hidden_state", FLOAT, (1, config.frames, config.channels))
    features = described("input_features", FLOAT, (1, config.bins, 2 * config.frames))
    graph.save(path, [features], [states])


def decoder_branch(graph: Graph, config: Any, has_past: bool) -> list[bytes]:
    """The decoder for the first tokens, or for one token after others; returns what it gives.

    The keys and values of the encoder's states, which do not change, are computed in the first
    branch only; transformers.js gives them back to the other one, whose own are not used.
    """
    heads, width = config.decoder_heads, config.channels // config.decoder_heads
    side, ending = "model.decoder", "_past" if has_past else "_first"
    count = graph.add("Shape", "input_ids", start=1, end=2)
    key = "past_key_values.0.decoder.key"
    before = graph.add("Shape", key, start=2, end=3) if has_past else graph.ints(0)
    places = graph.weight(f"{side}.embed_positions.weight")
    rows = graph.add("Slice", places, before, graph.add("Add", before, count), graph.ints(0))
    x = graph.add("Add", graph.look_up("input_ids", f"{side}.embed_tokens.weight"), rows)
    mask = ""
    if not has_past:
        square = graph.add("Concat", count, count, axis=0)
        low = graph.constant("low", -1e9)
        mask = graph.add(
            "Trilu", graph.add("Expand", low, square), graph.constant("one", 1, "int64"), upper=1
        )
    outputs = []
    for i in range(config.decoder_layers):
        name = f"{side}.layers.{i}"
        y = graph.norm(x, f"{name}.self_attn_layer_norm")
        q = graph.split(graph.linear(y, f"{name}.self_attn.q_proj"), heads)
        pair = []
        for part, letter in (("key", "k"), ("value", "v")):
            new = graph.split(graph.linear(y, f"{name}.self_attn.{letter}_proj"), heads)
            if has_past:
                new = graph.add("Concat", f"past_key_values.{i}.decoder.{part}", new, axis=2)
            pair.append(graph.add("Identity", new, out=f"{i}.decoder.{part}{ending}"))
        y = graph.linear(graph.attend(q, *pair, width, mask), f"{name}.self_attn.out_proj")
        x = graph.add("Add", x, y)
        y = graph.norm(x, f"{name}.encoder_attn_layer_norm")
        q = graph.split(graph.linear(y, f"{name}.encoder_attn.q_proj"), heads)
        cross = []
        for part, letter in (("key", "k"), ("value", "v")):
            out = f"{i}.encoder.{part}{ending}"
            if has_past:
                cross.append(f"past_key_values.{i}.encoder.{part}")
                graph.add("ConstantOfShape", graph.ints(1, heads, 0, width), out=out)
            else:
                own = graph.linear("encoder_hidden_states", f"{name}.encoder_attn.{letter}_proj")
                cross.append(graph.add("Identity", graph.split(own, heads), out=out))
        y = graph.linear(graph.attend(q, *cross, width), f"{name}.encoder_attn.out_proj")
        x = graph.feed_forward(graph.add("Add", x, y), name)
        outputs += [f"{i}.{side}.{p}" for side in ("decoder", "encoder") for p in ("key", "value")]
    x = graph.norm(x, f"{side}.layer_norm")
    logits = graph.product(x, f"{side}.embed_tokens.weight")
    graph.add("Identity", logits, out=f"logits{ending}")
    return [field(1, f"{name}{ending}") for name in ("logits", *outputs)]


def decoder(graph: Graph, config: Any, path: Path) -> None:
    heads, width = config.decoder_heads, config.channels // config.decoder_heads
    branches = []
    for has_past in (True, False):
        nodes: list[bytes] = []
        with graph.branch(nodes):
            outputs = decoder_branch(graph, config, has_past)
            branches.append(graph.body("past" if has_past else "first", outputs))
    names = [
        f"{i}.{side}.{part}"
        for i in range(config.decoder_layers)
        for side in ("decoder", "encoder")
        for part in ("key", "value")
    ]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    parts = [attribute("then_branch", branches[0]), attribute("else_branch", branches[1])]
    graph.nodes.append(
        field(1, "use_cache_branch") + fields(2, outputs) + field(4, "If") + fields(5, parts)
    )
    inputs = [
        described("input_ids", INT64, (1, "tokens")),
        described("encoder_hidden_states", FLOAT, (1, "states", config.channels)),
        *(
            described(f"past_key_values.{name}", FLOAT, (1, heads, f"past of {name}", width))
            for name in names
        ),
        described("use_cache_branch", BOOL, (1,)),
    ]
    given = [described("logits", FLOAT, (1, "tokens", config.vocab))]
    given += [
        described(f"present.{name}", FLOAT, (1, heads, f"all of {name}", width)) for name in names
    ]
    graph.save(path, inputs, given)


def write(folder: Path, kind: str, out: Path) -> None:
    model = library.load(str(folder))
    weights = {name: np.asarray(array, np.float32) for name, array in model.weights.items()}
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        shutil.copy(path, out)
    for name, make in (("encoder_model", encoder), ("decoder_model_merged", decoder)):
        make(Graph(weights, kind), model.config, out / "onnx" / f"{name}{SUFFIX[kind]}.onnx")


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
