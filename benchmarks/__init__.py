"""What is promised in figures, measured: `scripts/bench`."""
