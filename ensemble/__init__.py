"""Serve several small language models as one: exact votes, early stop, honest evidence."""

__version__ = "0.1.0"
