"""`python -m sae_moral.cli`."""

import sys

from sae_moral.cli import main

if __name__ == "__main__":
    sys.exit(main())
