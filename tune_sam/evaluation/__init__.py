"""What a search led to: refits and their tests, flatness of the networks, statistics."""
