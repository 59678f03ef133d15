"""Counts against those of torch's counter, which knows products alone, on implementations of others
where there are any. On torch's ``meta`` device nothing is computed, and no memory taken."""

import pytest

from counting import count_cross, count_step, count_text
from counting import total as total_of
from tynda.compile.count import count
from tynda.models import conformer, moonshine, moonshine_streaming, n2, wav2vec2, whisper

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from tynda.ops.torch import TorchOps  # noqa: E402

SIZES = {  # channels, heads, layers
    "tiny": (384, 6, 4),
    "base": (512, 8, 6),
    "small": (768, 12, 12),
    "medium": (1024, 16, 24),
    "large": (1280, 20, 32),
}
full_size = pytest.mark.slow


def theirs(function, *inputs, **options):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        result = function(*inputs, **options)
    return counter.get_total_flops(), result


def agree(macs, flops):
    assert macs > 0
    assert 2 * macs == pytest.approx(flops, rel=0.01)


def empty(*shape):
    return torch.empty(shape, device="meta")


def tokens(count):
    return torch.zeros((1, count), dtype=torch.long, device="meta")


@pytest.fixture(params=["small model", *(pytest.param(x, marks=full_size) for x in SIZES)])
def pair(request):
    """A Whisper of ours and transformers' own."""
    channels, heads, layers = SIZES.get(request.param, (64, 4, 2))
    sizes = {"vocab": 51865} if request.param in SIZES else {"vocab": 300, "frames": 100}
    config = whisper.Config(
        **{"channels": channels, "heads": heads, "layers": layers, "hidden": 4 * channels},
        **{"decoder_heads": heads, "decoder_layers": layers, "decoder_hidden": 4 * channels},
        **sizes,
    )
    with torch.device("meta"):
        model = transformers.WhisperForConditionalGeneration(
            transformers.WhisperConfig(
                **{"vocab_size": config.vocab, "d_model": channels, "encoder_layers": layers},
                **{"encoder_attention_heads": heads, "encoder_ffn_dim": 4 * channels},
                **{"decoder_attention_heads": heads, "decoder_ffn_dim": 4 * channels},
                **{"decoder_layers": layers, "max_source_positions": config.frames},
                **{"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0},
                **{"decoder_start_token_id": 0, "attn_implementation": "eager"},
            )
        )
    return config, model.eval()


def test_whispers_encoder(pair):
    config, model = pair
    frames = 2 * config.frames
    flops, _ = theirs(model.model.encoder, empty(1, config.bins, frames))
    agree(count(whisper.FAMILY, config, frames).total_macs, flops)


def test_whispers_decoder_token_by_token(pair):
    config, model = pair
    heard = empty(1, config.frames, config.channels)
    cache, total = None, 0
    for position in range(5):
        flops, out = theirs(
            model,
            **{"encoder_outputs": (heard,), "decoder_input_ids": tokens(1)},
            **{"past_key_values": cache, "use_cache": True},
        )
        cache = out.past_key_values
        macs = count_step(whisper.FAMILY, config, config.frames, position).total_macs
        if position == 0:  # they listen with the first token
            macs += count_cross(whisper.FAMILY, config, config.frames).total_macs
        agree(macs, flops)
        total += flops
    text = total_of(count_text(whisper.FAMILY, config, 1, 4), "total_macs")
    agree(text + count_cross(whisper.FAMILY, config, config.frames).total_macs, total)


def test_whispers_decoder_as_a_whole(pair):
    config, model = pair
    flops, _ = theirs(
        model,
        encoder_outputs=(empty(1, config.frames, config.channels),),
        **{"decoder_input_ids": tokens(20), "use_cache": True},  # else they look for packed texts
    )
    # They give the logits behind all tokens, we behind the last.
    macs = count_step(whisper.FAMILY, config, config.frames, 19, cached=False).total_macs
    macs += count_cross(whisper.FAMILY, config, config.frames).total_macs
    agree(macs + 19 * config.vocab * config.channels, flops)


@pytest.mark.parametrize("kind", ["Wav2Vec2", "Hubert"])
@pytest.mark.parametrize(
    "size", ["small model", *(pytest.param(x, marks=full_size) for x in ("base", "large"))]
)
@pytest.mark.parametrize("stable", [False, True])
def test_wav2vec2_and_hubert(kind, size, stable):
    settings = {"vocab_size": 32, "do_stable_layer_norm": stable}
    settings |= {"feat_extract_norm": "layer" if stable else "group", "conv_bias": stable}
    if size == "large":
        settings |= {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}
        settings |= {"intermediate_size": 4096}
    if size == "small model":
        settings |= {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
        settings |= {"intermediate_size": 128, "conv_dim": (32,) * 7}
        settings |= {"num_conv_pos_embedding_groups": 4}
    given = getattr(transformers, f"{kind}Config")(**settings, attn_implementation="eager")
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForCTC")(given).eval()
    flops, _ = theirs(model, empty(1, 48_000))
    config = wav2vec2.FAMILY.configure(wav2vec2.settings(given.to_dict()))
    agree(count(wav2vec2.FAMILY, config, 48_000).total_macs, flops)


SAMPLES = 16_000 * 8


@pytest.fixture(params=["tiny", "base", "streaming"])
def moonshines(request):
    """A Moonshine in its published size and transformers' own."""
    settings = {"attn_implementation": "eager"}
    if request.param == "base":
        settings |= {"hidden_size": 416, "intermediate_size": 1664}
        settings |= {"encoder_num_hidden_layers": 8, "decoder_num_hidden_layers": 8}
    if request.param == "streaming":
        family, kind = moonshine_streaming.FAMILY, "MoonshineStreaming"
        settings |= {"num_key_value_heads": 8}
    else:
        family, kind = moonshine.FAMILY, "Moonshine"
    given = getattr(transformers, f"{kind}Config")(**settings)
    with torch.device("meta"):
        model = getattr(transformers, f"{kind}ForConditionalGeneration")(given).eval()
    return family, family.configure(family.settings(given.to_dict())), model


def test_moonshines_encoder(moonshines):
    family, config, model = moonshines
    flops, out = theirs(model.model.encoder, empty(1, SAMPLES))
    macs = count(family, config, SAMPLES // config.bins).total_macs
    if family is moonshine_streaming.FAMILY:
        # Without a mask theirs sees all frames; ours are windows.
        frames = out.last_hidden_state.shape[1]
        for past, future in zip(config.past, config.future, strict=True):
            macs += 2 * frames * (frames - past - future + 1) * config.encoder_channels
    agree(macs, flops)


def test_moonshines_decoder_token_by_token(moonshines):
    family, config, model = moonshines
    flops, encoded = theirs(model.model.encoder, empty(1, SAMPLES))
    frames, cache = encoded.last_hidden_state.shape[1], None
    for position in range(3):
        flops, out = theirs(
            model, encoder_outputs=encoded, decoder_input_ids=tokens(1), cache=cache, use_cache=True
        )
        cache = out.cache
        macs = count_step(family, config, frames, position).total_macs
        if position == 0:  # keys and values of the sound are made with the first token
            macs += count_cross(family, config, frames).total_macs
        agree(macs, flops)


@pytest.mark.parametrize("module", [conformer, n2])
def test_our_own(module):
    config, batch, frames = module.Config(), 2, 61
    weights = {k: torch.zeros(s.shape) for k, s in module.specs(config).items()}
    features, lengths = torch.zeros(batch, frames, config.bins), torch.full((batch,), frames)
    # The counter does not know the CPU's own kernels of attention and LSTMs.
    plain = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with plain, torch.backends.mkldnn.flags(enabled=False):
        flops, _ = theirs(module.encode, TorchOps(), weights, config, features, lengths)
    agree(count(module.FAMILY, config, frames, batch).total_macs, flops)
