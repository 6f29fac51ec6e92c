"""Load: the shapes that locust runs, one a file, and what they are made of.

    locust -f locustfiles/smoke.py --host http://127.0.0.1:8000   # from the checkout's root

Invariant: the load knows the service by what comes over its sockets. Only `agent.py` runs on
the other side, in the runner; only the shapes and `kit/` import locust, and nothing else may
import them, since locust changes the whole process that does.
"""
