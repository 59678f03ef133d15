"""Rounding a model to fewer bits: methods, calibration, mixed precision."""
