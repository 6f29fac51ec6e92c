"""How our processes are called in `ps`, beside those that gunicorn names."""

from __future__ import annotations

import sys

if sys.platform == "darwin":
    # There setproctitle crashes in a forked child (gunicorn's issue 3021).
    def set_title(title: str) -> None:
        return
else:
    from setproctitle import setproctitle as set_title

__all__ = ["set_title"]
