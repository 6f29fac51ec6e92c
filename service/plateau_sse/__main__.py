"""`python -m plateau_sse` is `plateau`."""

import sys

from plateau_sse.importpath import put_current_directory_last

put_current_directory_last()

from plateau_sse.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main())
