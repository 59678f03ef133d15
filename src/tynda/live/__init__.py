"""Live recognition: text while somebody speaks."""
