"""Compilation of models: their definitions are traced, lowered to plans, counted and run."""
