"""Chaos: readers of many runs, while what serves them is killed, paused and restarted.

Invariant: whatever is done to the processes, every reader ends with its run's record, and every
event was delivered once or counted in a `missed`. The same seed makes the same choices.
"""
