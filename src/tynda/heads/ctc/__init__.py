"""CTC: greedy and beam search, forced alignment, n-grams and hot words."""
