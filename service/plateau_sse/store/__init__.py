"""The only Redis code: keys, connections, streams, the queue, the cache.

Invariant: nothing outside this package names a key or sends a command.
"""
