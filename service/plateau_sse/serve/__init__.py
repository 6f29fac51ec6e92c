"""The process tree of `plateau serve`: what starts, watches and ends its processes.

Invariant: gunicorn's master is the one supervisor. Whatever it started is started again when it
dies and is gone when it is gone.
"""
