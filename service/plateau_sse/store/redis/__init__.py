"""What all of the store stands on: connections, the names of keys, and what is known of the
servers themselves.

Invariant: every Redis client is made here, and every key is named here.
"""
