"""Executing runs: the process that takes them from the queue, runs their agents and writes what
these say into the store.

Invariant: only this side imports agents; it knows nothing of HTTP, nor of who reads.
"""
