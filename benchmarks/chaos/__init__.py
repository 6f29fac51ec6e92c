"""Chaos: readers of many runs, while what serves them is killed, paused and restarted.

Invariant: whatever is done to the processes, every reader ends with its run's record, and every
event was delivered once, by the arithmetic of its position. The same seed makes the same
choices.
"""
