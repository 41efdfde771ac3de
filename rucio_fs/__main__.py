"""`python -m rucio_fs`: the same as the command `rucio-fs`."""

import sys

from rucio_fs.cli import main

sys.exit(main())
