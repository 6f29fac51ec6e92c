"""What is kept in Redis, a room for each kind of thing.

Invariant: nothing outside this package writes to a run, the queue, an answer or a conversation.
(The hub subscribes by itself, and checks of operators ask servers what they are.)
"""
