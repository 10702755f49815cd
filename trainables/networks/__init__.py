"""The networks, apart from their descriptions, so that a description can be read without importing torch."""
