"""Plateau: resumable agent answers over server-sent events, at a flat cost in memory."""

__version__ = "0.1.0"
