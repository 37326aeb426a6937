import sys

from thespis.cli import main

sys.exit(main())
