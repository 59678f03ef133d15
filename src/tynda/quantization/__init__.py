"""Quantisation of a model to few bits: methods, calibration, mixed precision."""
