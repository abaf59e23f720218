"""`python -m impsamp.reproduce` is the command `impsamp`, too."""

import sys

from impsamp.reproduce.command import main

sys.exit(main())
