"""A smaller checkpoint from a larger one, by a recipe."""
