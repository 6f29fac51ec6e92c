"""Dialects: the forms in which a run is told. One file each, events in and frames out.

Invariant: no state of the process, no clock and no chance has a part in what is said of an
event. What is asked in a dialect is translated in `api`, where its routes are.
"""
