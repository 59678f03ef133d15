"""Code that reads published checkpoints, shared by both Moonshine families.

Settings have the form of ``transformers``' ``config.json`` of any version; tokens are those of a
``tokenizer.json`` in Llama's form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tynda.errors import TyndaError
from tynda.models.base import CheckpointFolder, check_sizes
from tynda.models.moonshine_layers import DecoderConfig
from tynda.sound.frontend import FrontEnd
from tynda.text.bytepairs import BytePairTokenizer

__all__ = ["check", "decoder_settings", "positive_integer", "read_tokenizer"]


def decoder_settings(
    config: Mapping[str, Any], heads: int, activation: str, rotary: float
) -> dict[str, Any]:
    """Return the decoder's settings, which both families name alike.

    ``rotary`` is the default of ``partial_rotary_factor``, the share of channels with rotary
    encodings. Raises KeyError for a missing setting, and ValueError for an unsupported variant.
    """
    if activation != "silu":
        raise ValueError(f"activation {activation!r} is not silu")
    if config.get("attention_bias", False):
        raise ValueError("attention with biases is not supported")
    channels = positive_integer(config, "hidden_size")
    if config.get("head_dim") not in (None, channels // heads):
        raise ValueError(f"a head_dim of {config['head_dim']} is not supported")
    rope = config.get("rope_parameters") or config  # The latter holds them before transformers 5.
    if not isinstance(rope, Mapping) or rope.get("rope_type", "default") != "default":
        raise ValueError("rotary encodings other than the default ones are not supported")
    if config.get("rope_scaling"):
        raise ValueError("scaled rotary encodings are not supported")
    part = rope.get("partial_rotary_factor", config.get("partial_rotary_factor", rotary))
    if not isinstance(part, int | float) or not 0 < part <= 1:
        raise ValueError(f"partial_rotary_factor {part!r} is not above 0 and at most 1")
    return {
        "vocab": config["vocab_size"],
        "channels": channels,
        "decoder_hidden": config["intermediate_size"],
        "rotary": int(channels // heads * part),
        "rotary_base": rope.get("rope_theta", 10000.0),
        "context": config["max_position_embeddings"],
    }


def positive_integer(config: Mapping[str, Any], name: str, default: int | None = None) -> int:
    """Return a dimension in ``config.json`` from which other dimensions are computed.

    Raises KeyError where it is missing and has no ``default``, and ValueError where it is not a
    positive integer.
    """
    value = config[name] if default is None else config.get(name, default)
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} {value!r} is not a whole number above 0")
    return value


def check(
    config: Any,
    tokenizer: BytePairTokenizer,
    front: FrontEnd,
    decoding: Mapping[str, Any],
) -> None:
    """Raise `TyndaError` for a model file whose parts do not match each other."""
    if len(tokenizer) > config.vocab:
        raise TyndaError(f"the tokenizer has tokens beyond the model's {config.vocab}")
    if front.hop != config.bins:
        raise TyndaError("the model reads frames of samples, but the front end gives others")
    check_sizes(config, front, config.vocab)


def read_tokenizer(
    folder: CheckpointFolder, settings: Mapping[str, Any], config: DecoderConfig
) -> Any:
    """Return the tokenizer of a checkpoint's folder.

    Raises `TyndaError` where it is damaged or has more tokens than the model.
    """
    start, end = settings.get("decoder_start_token_id"), settings.get("eos_token_id", 2)
    start = settings.get("bos_token_id", 1) if start is None else start
    data = folder.json("tokenizer.json")
    try:
        if type(start) is not int or type(end) is not int:
            raise TyndaError("config.json has no start token or no end token")
        tokenizer = BytePairTokenizer.from_json(data, sot=start, eot=end)
    except TyndaError as error:
        raise TyndaError(f"{folder.path}: {error}") from None
    if len(tokenizer) > config.vocab:
        raise TyndaError(
            f"{folder.path}: the tokenizer has tokens beyond the model's {config.vocab}: it "
            "belongs to another model"
        )
    return tokenizer
