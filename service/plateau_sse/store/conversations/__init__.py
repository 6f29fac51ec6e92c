"""What has been said under one conversation id: `conversations.py` keeps it, and shortens what
a model is given; `wholes.py` is what people see of a message, `graphemes.py` finds where a text
may be cut."""
