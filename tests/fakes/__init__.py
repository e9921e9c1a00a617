"""Doubles of the router's ports: one file a port."""
