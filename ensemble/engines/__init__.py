"""Code that runs one checkpoint in this process."""
