"""A log's files without signer and state: what readers of entries need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from strongroom_auditlog.edge import Edge
from strongroom_auditlog.tiles import LogFiles, write_files

__all__ = ["Tree"]


class Tree:
    """Grows by whole appends, as the log does."""

    def __init__(self, directory: Path):
        directory.mkdir(parents=True, exist_ok=True)
        self.files = LogFiles(directory)
        self.edge = Edge()

    @property
    def size(self) -> int:
        """How many records there are."""
        return self.edge.size

    def append(self, records: Sequence[bytes]) -> None:
        """Write records."""
        self.edge, files = self.edge.extend(records)
        write_files(self.files.directory, files)
