"""The records of a log wherever they are: in the log, or below its mark in the archive."""

from __future__ import annotations

from strongroom_auditlog.errors import EntryArchivedError, TileInvalidError
from strongroom_auditlog.retention.store import ArchiveFiles
from strongroom_auditlog.tiles import LogFiles, tile_path
from strongroom_auditlog.verified_tree import leaf_hashes

__all__ = ["Entries"]


class Entries:
    """Reads entry bundles. Thread safety: all methods may be called from any thread."""

    def __init__(self, files: LogFiles, archive: ArchiveFiles | None = None):
        """Read from `files`, and what was pruned there from `archive` where there is one."""
        self._files = files
        self._archive = archive

    def first_readable(self) -> int:
        """Return the first leaf that can be read: 0, or without an archive the mark's.

        Raises:
            VerificationError: The mark is malformed.
        """
        return 0 if self._archive is not None else self._files.read_mark().minimum_index

    def read(self, n: int, size: int) -> list[bytes]:
        """Return the entries of bundle `n` in the tree of `size`.

        Those from the archive are the leaves of the log's tile; those of the log are as
        they lie there.

        Raises:
            EntryArchivedError: The bundle was pruned, and there is no archive.
            EntryInvalidError, TileInvalidError: It is missing, malformed, or another one.
            ArchiveError: The archive cannot be read.
        """
        try:
            return self._files.read_entries(n, size)
        except EntryArchivedError:
            if self._archive is None:
                raise
        entries = self._archive.read_entries(n, size)
        if leaf_hashes(entries) != self._files.read_tile(0, n, size):
            raise TileInvalidError(
                tile_path(0, n), f"has other hashes than {self._archive.store.location} has records"
            )
        return entries
