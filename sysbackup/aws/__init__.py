"""Sessions, credentials and the look-up of the bucket's name."""
