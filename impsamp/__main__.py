"""`python -m impsamp` is the command `impsamp`."""

import sys

from impsamp.reproduce.command import main

sys.exit(main())
