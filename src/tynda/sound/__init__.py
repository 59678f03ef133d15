"""Audio: reading files, detecting speech, computing features."""
