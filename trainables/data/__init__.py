"""The data sets: a module each, the splits that they share, and the stores that hold them in memory."""
