"""Counters and the figures of each process, so that whichever process is asked can tell them.

`tally.py` counts in memory that a tree of processes shares; `stats.py` sends that to Redis and
reads it back, a host at a time; `workers.py` has the latest figures of each process;
`leftovers.py` finds what dead processes have left behind.

Invariant: a counter never falls, whoever of those that count has died.
"""
