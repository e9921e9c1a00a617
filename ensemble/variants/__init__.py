"""Variants of models beside what they were made from: how good, how fast, how large, how different."""
