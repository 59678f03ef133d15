"""The small set of tensor operations on which every model is defined, and its backends."""
