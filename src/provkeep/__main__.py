"""``python -m provkeep`` is the command ``provkeep``."""

import sys

from provkeep.cli.main import main

sys.exit(main())
