"""The queue of runs, the leases on those that execute, and the limit for each owner."""
