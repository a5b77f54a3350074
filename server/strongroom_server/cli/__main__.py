"""``python -m strongroom_server.cli``: how `dev up` starts its children."""

from __future__ import annotations

from strongroom_server.cli import main

main()
