"""What processes count and say of themselves, kept where any of them can tell it.

Invariant: a counter never falls, whoever of those that count has died.
"""
