"""What is known to be stored: a cache in SQLite that can always be thrown away."""
