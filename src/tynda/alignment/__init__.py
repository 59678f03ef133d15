"""Forced alignment: when each word of a known text was spoken."""
