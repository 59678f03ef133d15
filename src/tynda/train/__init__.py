"""Training: recipes, data, augmentation and the loop; it needs the ``train`` extra."""
