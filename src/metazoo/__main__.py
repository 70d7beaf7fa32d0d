"""The command `metazoo` as `python -m metazoo`, where scripts are not on the path."""

import sys

from metazoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
