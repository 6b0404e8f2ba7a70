"""`python -m slip VERB`, the same as the console command `slip VERB`."""

from __future__ import annotations

import sys

from slip.cli import main

sys.exit(main())
