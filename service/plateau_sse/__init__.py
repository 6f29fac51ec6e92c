"""Plateau: resumable agent answers over server-sent events, at a flat cost in memory."""

__version__ = "0.2.0"
