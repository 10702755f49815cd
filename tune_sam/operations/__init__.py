"""Whole commands for Python: a module each."""
