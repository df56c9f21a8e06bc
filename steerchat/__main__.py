"""`python -m steerchat`."""

import sys

from .cli import main

sys.exit(main())
