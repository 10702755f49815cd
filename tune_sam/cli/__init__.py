"""The command line: a thin layer over the functions that `tune_sam` exports."""
