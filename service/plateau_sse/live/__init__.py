"""From Redis to open sockets: the hub, its subscribers, the protocol under them.

Invariant: what an event costs depends on who reads its run, never on how many runs are open.
"""
