"""Training: recipes, data, augmentation and the loop. Needs the ``train`` extra."""
