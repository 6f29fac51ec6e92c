"""What has been said under one conversation id: `conversations.py` keeps and shortens it,
`graphemes.py` finds where a text may be cut."""
