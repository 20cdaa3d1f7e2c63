"""What is set down on the local disk: whose it is, and what is sorted there because memory would not hold it."""
