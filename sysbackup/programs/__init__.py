"""Programs as subprocesses: the administrator's and our own, started, heard and ended."""
