"""What `GET /openapi.json` says: what can be asked, what is answered, how each event looks.

Invariant: it is imported when somebody asks for it, and until then in no memory.
"""
