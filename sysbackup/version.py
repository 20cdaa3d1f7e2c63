"""Which version this is: `pyproject.toml` has it from here, as loading what installed packages say costs 25 ms."""

VERSION = "0.1.0"
