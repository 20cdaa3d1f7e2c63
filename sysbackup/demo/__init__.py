"""The demonstration: a backup's whole life on an S3 server of its own."""
