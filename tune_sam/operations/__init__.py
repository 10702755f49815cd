"""Whole commands for Python: run, analyze, status, doctor, check and submit."""
