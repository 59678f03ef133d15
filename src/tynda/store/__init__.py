"""Storage of models: the model file, Hugging Face folders, the hub, and lookup by name."""
