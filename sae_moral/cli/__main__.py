"""`python -m sae_moral.cli`."""

import sys

from sae_moral.cli import main

sys.exit(main())
