"""What is set down on the local disk: whole or not at all, whose it is, held, and sorted where memory is too small."""
