"""`python -m protorl` is the command line."""

import sys

from protorl.cli import main

sys.exit(main())
