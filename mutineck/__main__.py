"""`python -m mutineck` is `mutineck`."""

import sys

from mutineck.cli import main

sys.exit(main())
