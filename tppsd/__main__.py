"""`python -m tppsd`: the same as the `tppsd` command."""

import sys

from tppsd.cli import main

if __name__ == "__main__":  # data loaders that spawn processes import this module again
    sys.exit(main())
