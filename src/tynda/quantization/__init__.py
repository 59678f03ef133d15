"""From a model to one in fewer bits: the methods, and what they listen to."""
