"""How often a key version may encrypt (SP 800-38D, 8.3).

Random 96-bit IVs allow 2^32 invocations of GCM per key. Uses are counted in blocks that
are reserved durably before they are used: a crash loses the rest of a block, it never
gives a use twice.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK_USES", "MAX_USES", "ROTATE_AT_USES", "UseBlock"]

BLOCK_USES: Final = 2**16
ROTATE_AT_USES: Final = 2**30
MAX_USES: Final = 2**32


class UseBlock:
    """The uses of one key version that this process has reserved and not yet spent.

    Not thread safe: owned by the event loop.
    """

    __slots__ = ("_left", "_reserved_total")

    def __init__(self) -> None:
        self._left = 0
        self._reserved_total = 0

    @property
    def left(self) -> int:
        """Uses that can be taken without a new reservation."""
        return self._left

    @property
    def wants_rotation(self) -> bool:
        """Whether the version has reached the number at which the key is rotated."""
        return self._reserved_total >= ROTATE_AT_USES

    def add(self, *, uses: int, reserved_total: int) -> None:
        """Note a durable reservation of `uses`, making `reserved_total` in all."""
        self._left += uses
        self._reserved_total = max(self._reserved_total, reserved_total)

    def take(self) -> bool:
        """Take one use; return whether there was one."""
        if self._left == 0:
            return False
        self._left -= 1
        return True
