"""The data sets: one module each, the split they share, and the stores that hold them in memory."""
