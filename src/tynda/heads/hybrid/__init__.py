"""Hybrid models: a network scores the states of hidden Markov models, which spell words by phones.

The lexicon, the tied states and the search are here; ``tynda.hybrid`` trains them.
"""
