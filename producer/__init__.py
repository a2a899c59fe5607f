"""The producer: turns a matrix into a run, and shows how it goes."""
