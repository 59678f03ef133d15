"""CTC: paths through log-probabilities, beam search, n-grams, hot words."""
