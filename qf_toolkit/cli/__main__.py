"""`python -m qf_toolkit.cli` is `qf`."""

import sys

from .main import main

if __name__ == "__main__":
    sys.exit(main())
