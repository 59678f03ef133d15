"""Sound: reading files, finding speech, computing features."""
