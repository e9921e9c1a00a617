"""What a recipe is made of: a file a step, with its options, its check and its work."""
