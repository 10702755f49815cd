"""Ray: the connection, the data and results that nodes share, and what runs trainings and tasks there."""
