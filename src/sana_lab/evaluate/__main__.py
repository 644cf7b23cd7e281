"""`python -m sana_lab.evaluate`: what `sana-lab evaluate` is, for launchers."""

import sys

from .cli import main

if __name__ == "__main__":  # reading processes import this module again
    sys.exit(main())
