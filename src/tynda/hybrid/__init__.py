"""Training of hybrid models: Gaussian mixtures, tied triphones, alignment, networks on states."""
