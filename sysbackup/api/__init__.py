"""The way in from Python, on which the commands stand too: making backups, and reading what there is."""
