"""Decoders: from log probabilities to words."""
