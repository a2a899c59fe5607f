"""Workers: each serves one device and measures one job at a time on it."""
