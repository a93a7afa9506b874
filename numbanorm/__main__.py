"""`python -m numbanorm`."""

import sys

from numbanorm.cli import main

if __name__ == "__main__":
    sys.exit(main())
