"""Chooses the panel, asks its members at once, counts their ballots, stops when the vote is decided."""
