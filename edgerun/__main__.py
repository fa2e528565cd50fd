"""`python -m edgerun` and the `edgerun` script."""

from __future__ import annotations

import sys

from edgerun.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
