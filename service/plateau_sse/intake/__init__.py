"""Taking runs on, on the web side: from a validated request to a run that has its place in the
queue, to one that is under way already, or to a cached answer; and clearing up after runs that
have nobody left.

Invariant: nothing here executes an agent, and nothing here knows HTTP.
"""
