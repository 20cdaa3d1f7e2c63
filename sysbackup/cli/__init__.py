"""Commands and their look; the only place that joins concrete parts."""
