"""Choosing the recordings that teach a model most: LESS, nearest embeddings, or by chance."""

from tynda.train.select.run import Selection, select

__all__ = ["Selection", "select"]
