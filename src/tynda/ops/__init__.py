"""The small, closed set of tensor operations that every model is written over."""
