"""Sequence to sequence: a decoder that attends to encoded sound, token by token."""
