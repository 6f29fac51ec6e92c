"""Runs as they are kept: record, text, stream and tokens, and the scripts that change them.

Invariant: all that a run has lies in one slot, and a script sees it as one moment in time.
"""
