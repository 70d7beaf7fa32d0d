"""Command line as `python -m metazoo`, for systems whose path lacks the script `metazoo`."""

import sys

from metazoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
