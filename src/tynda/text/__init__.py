"""Text: normalisers and tokenizers."""
