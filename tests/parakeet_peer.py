"""Random Parakeets of transformers, as folders of the hub hold them."""

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    ParakeetCTCConfig,
    ParakeetEncoderConfig,
    ParakeetFeatureExtractor,
    ParakeetForCTC,
    ParakeetProcessor,
    ParakeetTokenizer,
)

TINY = {
    "num_mel_bins": 16,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "conv_kernel_size": 5,
    "subsampling_conv_channels": 6,
}
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz'"
_MERGES = ["▁ t", "▁ a", "h e", "▁t he", "i n", "▁ s", "r e", "▁ w", "n d", "▁a nd", "in g", "e r"]


def shake(model, seed=0):
    """Norms, statistics and biases start at values that would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.dtype != torch.float32:
                continue
            noise = torch.randn(value.shape, generator=generator)
            if name.endswith("running_var"):
                value.copy_(1 + noise.abs())
            elif value.ndim > 1 and "bias_" not in name:
                value.copy_(noise / value[0].numel() ** 0.5)
            else:
                value += 0.2 * noise
    return model.eval()


def build(vocab=11, blank=None, **encoder):
    """A random model; its blank is the last symbol, unless said."""
    config = ParakeetCTCConfig(
        vocab_size=vocab,
        pad_token_id=vocab - 1 if blank is None else blank,
        encoder_config=ParakeetEncoderConfig(**encoder),
    )
    torch.manual_seed(0)
    return shake(ParakeetForCTC(config))


def tokenizer():
    """Pieces as transformers makes them of NeMo's: the unknown first, the blank last."""
    pieces = ["<unk>", "▁", *_LETTERS, *(merge.replace(" ", "") for merge in _MERGES)]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    merges = [tuple(merge.split(" ")) for merge in _MERGES]
    found = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True))
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    made = ParakeetTokenizer(tokenizer_object=found, clean_up_tokenization_spaces=False)
    special = {
        name: AddedToken(f"<{name[:3]}>", special=True) for name in ("unk_token", "pad_token")
    }
    made.add_special_tokens(special)
    return made


def write_folder(folder, **encoder):
    """A model with its processor, written by transformers to a folder; gives both.

    Every symbol of noise is likely at times, so that texts have many.
    """
    sizes = TINY | encoder
    front = ParakeetFeatureExtractor(feature_size=sizes["num_mel_bins"])
    processor = ParakeetProcessor(front, tokenizer())
    model = build(len(processor.tokenizer), **sizes)
    noise = torch.randn(16000 * 10, generator=torch.Generator().manual_seed(1))
    inputs = processor(noise.numpy(), sampling_rate=16000)
    with torch.no_grad():
        logits = model(**inputs).logits[0]
        model.ctc_head.weight *= (2 / logits.std(0))[:, None, None]
        model.ctc_head.bias -= model(**inputs).logits[0].mean(0)
        model.ctc_head.bias[-1] += 1
        begins = [i for piece, i in processor.tokenizer.get_vocab().items() if piece[0] == "▁"]
        model.ctc_head.bias[begins] += 1.5
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor
