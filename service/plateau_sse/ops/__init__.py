"""What operators look at: health, metrics, advice, and how much is logged."""
