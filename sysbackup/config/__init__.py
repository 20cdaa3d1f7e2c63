"""The configuration: every setting, how `conf` is read, and the units that people write."""
