"""The machine: programs run as subprocesses; files examined, read, hashed and packed."""
