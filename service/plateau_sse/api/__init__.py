"""Thin routes, one file a surface."""
