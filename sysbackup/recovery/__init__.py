"""Back again: which runs there are, what is in them, and restoring it."""
