"""The head of models whose result is the embedding of a voice, not text."""
