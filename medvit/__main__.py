"""``python -m medvit`` is the ``medvit`` command."""

from medvit.cli import main

raise SystemExit(main())
