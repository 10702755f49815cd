"""The networks, apart from the descriptions, which can be imported without torch."""
