"""`python -m plateau_sse` is `plateau`."""

import sys

from plateau_sse.cli import main

if __name__ == "__main__":
    sys.exit(main())
