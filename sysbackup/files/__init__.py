"""What the file system knows of a file, read and written."""
