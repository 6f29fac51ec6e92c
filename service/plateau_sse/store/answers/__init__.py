"""Answers that have been given before: the cache, how it is asked, and how an entry is packed.

Invariant: whatever the cache does, it costs an answer at most: a miss is never an error.
"""
