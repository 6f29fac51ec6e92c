"""Taking runs on, on the web side, and clearing up after runs that have nobody left.

`intake.py` decides whether a request is answered from the cache, joins a run that is under way,
or gets one of its own; `placement.py` finds that one its place in the queue; `reaper.py` ends
runs whose runner or producer has died; `janitor.py` sweeps what dead processes leave in Redis.

Invariant: nothing here executes an agent, and nothing here knows HTTP.
"""
