"""Readers of other programs' weights files."""
