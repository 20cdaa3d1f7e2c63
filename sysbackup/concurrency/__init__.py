"""Work side by side: channels, the budget of bytes, threads that nobody walks away from."""
