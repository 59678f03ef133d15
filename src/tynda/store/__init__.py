"""Models at rest: the model file, Hugging Face folders, the hub, the library of names."""
