"""The command line `strongroom`: docs/cli.md.

Every command imports what it needs inside its function, so that ``strongroom --help``
loads neither gRPC nor SQLAlchemy nor an HSM binding.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Run the command line and end the process with its exit code."""
    from strongroom_server.cli.root import run

    raise SystemExit(run())
