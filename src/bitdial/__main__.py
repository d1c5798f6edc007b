"""``python -m bitdial`` is ``bitdial``."""

from bitdial.cli import main

raise SystemExit(main())
