"""A vocabulary for a small Whisper, learnt from its training texts."""

from __future__ import annotations

import json
from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer

from tynda.text.whisper import WhisperTokenizer

__all__ = ["learn_tokens"]

_SPECIAL = (
    *("endoftext", "startoftranscript", "en", "translate", "transcribe", "startoflm"),
    *("startofprev", "nospeech", "notimestamps"),
)


def learn_tokens(texts: Sequence[str], pieces: int) -> WhisperTokenizer:
    """Learn about ``pieces`` byte pairs from ``texts``, followed by Whisper's special tokens.

    The only language is English. The same texts give the same tokens; 256 of them are the bytes.
    """
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    trainer = BpeTrainer(
        vocab_size=pieces, initial_alphabet=ByteLevel.alphabet(), show_progress=False
    )
    learner.train_from_iterator((f" {text}" for text in texts), trainer)
    model = json.loads(learner.to_str())["model"]
    special = {f"<|{name}|>": len(model["vocab"]) + i for i, name in enumerate(_SPECIAL)}
    vocab, merges = model["vocab"], model["merges"]
    return WhisperTokenizer.from_vocab(vocab, merges, special, multilingual=False)
