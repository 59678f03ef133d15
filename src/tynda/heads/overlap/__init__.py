"""The head of models that say where several people speak at once."""
