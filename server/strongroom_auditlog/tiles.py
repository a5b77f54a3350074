"""The files of the log: hash tiles and entry bundles (C2SP tlog-tiles).

    tile/{L}/{N}[.p/{W}]        W hashes of 32 bytes; 256 without the suffix
    tile/entries/{N}[.p/{W}]    W times: big-endian u16 length n, then n bytes of entry

{N} is zero-padded in groups of three digits, all but the last with an `x` before them:
1234067 is `x001/x234/067`. A full file never changes once a checkpoint covers it.

`write_files` is the only function of the package that writes below the log's directory;
what is removed there, `remove_partials` and `retention.pruning` remove.
After a crash in it, some files may be there and others not, each of them whole.
"""

from __future__ import annotations

import abc
import contextlib
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from strongroom.tlog.errors import VerificationError
from strongroom.tlog.merkle import HASH_BYTES, fold
from strongroom_auditlog.errors import EntryArchivedError, EntryInvalidError, TileInvalidError
from strongroom_auditlog.pruned import MAX_MARK_BYTES, NOT_PRUNED, PRUNED, PrunedMark
from strongroom_auditlog.records import MAX_RECORD_BYTES

__all__ = [
    "CHECKPOINT",
    "MAX_BUNDLE_BYTES",
    "TILE_BYTES",
    "TILE_WIDTH",
    "LogFiles",
    "TreeFiles",
    "decode_bundle",
    "encode_entry",
    "entries_path",
    "remove_partials",
    "remove_strays",
    "tile_path",
    "write_files",
]

TILE_WIDTH: Final = 256
TILE_BYTES: Final = TILE_WIDTH * HASH_BYTES
CHECKPOINT: Final = "checkpoint"

_HEIGHT: Final = 8  # 2**8 == TILE_WIDTH
_LENGTH_BYTES: Final = 2
MAX_BUNDLE_BYTES: Final = TILE_WIDTH * (_LENGTH_BYTES + MAX_RECORD_BYTES)
_MAX_CHECKPOINT_BYTES: Final = 2**16
# One append is at most 65,536 records and a batch (config.LogConfig.batch_records).
_AHEAD_TILES: Final = 300
_CACHED_TILES: Final = 1024  # 8 MiB


def _number(n: int, width: int) -> str:
    groups = [f"{n % 1000:03d}"]
    while n >= 1000:  # noqa: PLR2004 - three digits to a path element
        n //= 1000
        groups.insert(0, f"x{n % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return "/".join(groups) + suffix


def tile_path(level: int, n: int, width: int = TILE_WIDTH) -> str:
    """Return the path of a hash tile below the log's directory."""
    return f"tile/{level}/{_number(n, width)}"


def entries_path(n: int, width: int = TILE_WIDTH) -> str:
    """Return the path of an entry bundle below the log's directory."""
    return f"tile/entries/{_number(n, width)}"


def encode_entry(record: bytes) -> bytes:
    """Return `record` as it stands in a bundle.

    Raises:
        OverflowError: It has more than 65,535 bytes.
    """
    return len(record).to_bytes(_LENGTH_BYTES, "big") + record


def decode_bundle(data: bytes, width: int, *, where: str) -> list[bytes]:
    """Split a bundle into its `width` entries.

    Raises:
        EntryInvalidError: It is truncated or has bytes left over.
    """
    entries: list[bytes] = []
    end, size = 0, len(data)
    for _ in range(width):
        start = end + _LENGTH_BYTES
        if start > size:
            raise EntryInvalidError(where, f"truncated: {len(entries)} of {width} entries")
        end = start + (data[start - 2] << 8 | data[start - 1])
        if end > size:
            raise EntryInvalidError(where, f"truncated: {len(entries)} of {width} entries")
        entries.append(data[start:end])
    if end != size:
        raise EntryInvalidError(where, f"{size - end} bytes behind the last of {width} entries")
    return entries


class TreeFiles(abc.ABC):
    """Reads a tree's files as they are for some size, checking lengths only.

    Every method takes the size of a signed tree, which says how wide each file is. A
    partial file that was removed because its full one exists is read from that one.

    Thread safety: all methods may be called from any thread.
    """

    def __init__(self) -> None:
        # Only full tiles that a signed size covers: these never change.
        self._cache: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read_checkpoint(self) -> str | None:
        """Return the text of `checkpoint`; None when there is no such file.

        Raises:
            VerificationError: It is not UTF-8 or longer than 65,536 bytes.
        """
        data = self._read(CHECKPOINT, _MAX_CHECKPOINT_BYTES)
        if data is None:
            return None
        if len(data) > _MAX_CHECKPOINT_BYTES:
            raise VerificationError(CHECKPOINT, "longer than 65,536 bytes")
        try:
            return data.decode()
        except UnicodeDecodeError as exc:
            raise VerificationError(CHECKPOINT, "not UTF-8") from exc

    def read_tile(self, level: int, n: int, size: int) -> bytes:
        """Return the hashes of a tile in the tree of `size`.

        Raises:
            TileInvalidError: The file is missing or has another length.
        """
        width = _width(size >> (_HEIGHT * level), n)
        key = (level, n)
        if width == TILE_WIDTH:
            with self._lock:
                cached = self._cache.get(key)
                if cached is not None:
                    self._cache.move_to_end(key)
                    return cached
        where = tile_path(level, n, width)
        data = self._read(where, TILE_BYTES)
        if data is None and width < TILE_WIDTH:
            whole = self._read(tile_path(level, n), TILE_BYTES)
            # The full tile begins with what the partial one had.
            data = whole[: width * HASH_BYTES] if whole and len(whole) == TILE_BYTES else None
        if data is None:
            raise TileInvalidError(where, "missing")
        if len(data) != width * HASH_BYTES:
            raise TileInvalidError(where, f"not {width} hashes of {HASH_BYTES} bytes")
        if width == TILE_WIDTH:
            with self._lock:
                self._cache[key] = data
                while len(self._cache) > _CACHED_TILES:
                    self._cache.popitem(last=False)
        return data

    def read_entries(self, n: int, size: int) -> list[bytes]:
        """Return the entries of a bundle in the tree of `size`.

        Raises:
            EntryArchivedError: The file was pruned.
            EntryInvalidError: The file is missing or malformed.
        """
        width = _width(size, n)
        where = entries_path(n, width)
        data = self._read(where, MAX_BUNDLE_BYTES)
        if data is not None:
            return decode_bundle(data, width, where=where)
        if width < TILE_WIDTH:
            data = self._read(entries_path(n), MAX_BUNDLE_BYTES)
            if data is not None:
                return decode_bundle(data, TILE_WIDTH, where=entries_path(n))[:width]
        raise self._missing_bundle(n, where)

    def read_entry(self, index: int, size: int) -> bytes:
        """Return the entry at `index` in the tree of `size`.

        Raises:
            EntryInvalidError: Its bundle is missing or malformed.
        """
        n, offset = divmod(index, TILE_WIDTH)
        return self.read_entries(n, size)[offset]

    def subtree_hash(self, size: int, height: int, index: int) -> bytes:
        """Return the hash of the complete subtree `index` of 2**height leaves.

        With `size` bound, this is a `merkle.SubtreeHash`.

        Raises:
            TileInvalidError: A tile is missing or has another length.
        """
        level, rest = divmod(height, _HEIGHT)
        first = index << rest  # in units of the tile level's hashes
        n, offset = divmod(first, TILE_WIDTH)
        tile = self.read_tile(level, n, size)
        return fold(tile[offset * HASH_BYTES : (offset + (1 << rest)) * HASH_BYTES])

    def read_raw(self, path: str) -> bytes | None:
        """Return the bytes of a tile or bundle as they are; None when it is missing."""
        return self._read(path, MAX_BUNDLE_BYTES)

    def _missing_bundle(self, n: int, where: str) -> EntryInvalidError:
        del n
        return EntryInvalidError(where, "missing")

    @abc.abstractmethod
    def _read(self, path: str, max_bytes: int) -> bytes | None:
        """Return at most `max_bytes` + 1 bytes of a file; None when it is missing.

        Raises:
            VerificationError, ArchiveError: It cannot be read.
        """


class LogFiles(TreeFiles):
    """Reads the files of a log in a directory. Thread safety: as `TreeFiles`."""

    def __init__(self, directory: Path):
        super().__init__()
        self.directory = directory

    def partial_widths(self, path: str) -> list[int]:
        """Return the widths of the partial files that stand beside the full file `path`."""
        try:
            names = [file.name for file in (self.directory / f"{path}.p").iterdir()]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(name) for name in names if name.isascii() and name.isdigit())

    def stray_partials(self, size: int) -> list[str]:
        """Return the partial files that a tree of `size` leaves has not: never signed.

        A process that was killed before it signed leaves them. The next one need not come
        by the same widths, so they would stay, and differ from what it writes.
        """
        stray = []
        level = 0
        while True:
            count = size >> (8 * level)
            first, width = divmod(count, TILE_WIDTH)
            for n in range(first, first + (_AHEAD_TILES if level == 0 else 2)):
                paths = [tile_path(level, n), *([entries_path(n)] if level == 0 else [])]
                stray += [
                    f"{path}.p/{found}"
                    for path in paths
                    for found in self.partial_widths(path)
                    if found > (width if n == first else 0)
                ]
            if not count:
                return stray
            level += 1

    def read_mark(self) -> PrunedMark:
        """Return what was pruned; the mark of a log that never was, when there is no file.

        Raises:
            VerificationError: The file is malformed.
        """
        data = self._read(PRUNED, MAX_MARK_BYTES)
        return NOT_PRUNED if data is None else PrunedMark.parse(data)

    def _missing_bundle(self, n: int, where: str) -> EntryInvalidError:
        # The mark is read only now: it is older than the removal of any bundle below it.
        mark = self.read_mark()
        if (n + 1) * TILE_WIDTH <= mark.minimum_index:
            return EntryArchivedError(where, mark.minimum_index, mark.archive)
        return EntryInvalidError(where, "missing")

    def _read(self, path: str, max_bytes: int) -> bytes | None:
        try:
            with (self.directory / path).open("rb") as file:
                return file.read(max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise VerificationError(path, f"cannot be read: {exc.strerror}") from exc


def _width(count: int, n: int) -> int:
    """Return how many of `count` items fall into file `n`."""
    return min(TILE_WIDTH, count - n * TILE_WIDTH)


def write_files(directory: Path, files: Sequence[tuple[str, bytes]]) -> None:
    """Write files below `directory` and make them durable, each whole or not at all.

    Temporary file, fsync, rename, fsync of the directory. The renames come after all
    temporary files are durable, so a full disk leaves the directory's names as they were.

    Raises:
        OSError: Something failed; some of the files may be in place, and all of them may
            be written again.
    """
    changed: dict[Path, None] = {}
    renames: list[tuple[Path, Path]] = []
    for name, data in files:
        target = directory / name
        for parent in _make_directories(target.parent):
            changed[parent] = None
        temporary = target.with_name(f".{target.name}.tmp")
        _write_durably(temporary, data)
        renames.append((temporary, target))
    for temporary, target in renames:
        temporary.replace(target)
        changed[target.parent] = None
    for parent in changed:
        _sync_directory(parent)


def remove_partials(directory: Path, paths: Iterable[str]) -> None:
    """Remove the partial files of full files that a published checkpoint covers.

    They are only clutter by then (C2SP tlog-tiles, "Partial Tiles"): one that cannot be
    removed does no harm, so errors are ignored.
    """
    for path in paths:
        shutil.rmtree(directory / f"{path}.p", ignore_errors=True)


def remove_strays(directory: Path, paths: Iterable[str]) -> None:
    """Remove partial files that were never signed (`LogFiles.stray_partials`).

    Raises:
        OSError: One cannot be removed.
    """
    for path in paths:
        (directory / path).unlink(missing_ok=True)


def _make_directories(path: Path) -> list[Path]:
    """Create `path` and its parents; return the directories whose entries changed."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o750)
    return [directory.parent for directory in missing]


def _write_durably(path: Path, data: bytes) -> None:
    # 0640: records name callers and keys; a web server gets access through the group.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    except OSError:
        # On a full disk the part that was written is in the way of everything else.
        path.unlink(missing_ok=True)
        raise
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
