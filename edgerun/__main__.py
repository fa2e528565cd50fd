"""`python -m edgerun` and the `edgerun` script."""

from __future__ import annotations

try:
    import sys

    from edgerun.cli.main import main
except KeyboardInterrupt:  # main() answers one that comes later
    raise SystemExit(130) from None

if __name__ == "__main__":
    sys.exit(main())
