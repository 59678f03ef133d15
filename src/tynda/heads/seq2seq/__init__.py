"""Sequence-to-sequence models: a decoder generates tokens from the encoder's states."""
