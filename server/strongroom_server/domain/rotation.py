"""How often a key version may encrypt (SP 800-38D, 8.3).

Random 96-bit IVs allow 2^32 invocations of GCM per key. Uses are counted in blocks that
are reserved durably before they are used: a crash loses the rest of a block, it never
gives a use twice.

A version's first block is small and the next ones grow. So a key that is used rarely, and
forgotten in between, loses little each time: 2^22 first blocks fit below the number at
which a key is rotated. One that is used much soon needs a reservation in 65,536 uses.
"""

from __future__ import annotations

from typing import Final

__all__ = ["BLOCK_USES", "FIRST_BLOCK_USES", "MAX_USES", "ROTATE_AT_USES", "UseBlock"]

FIRST_BLOCK_USES: Final = 2**8
BLOCK_USES: Final = 2**16
_GROWTH: Final = 2**4
ROTATE_AT_USES: Final = 2**30
MAX_USES: Final = 2**32


class UseBlock:
    """The uses of one key version that this process has reserved and not yet spent.

    Not thread safe: owned by the event loop.
    """

    __slots__ = ("_left", "_next_uses", "_reserved_total")

    def __init__(self) -> None:
        self._left = 0
        self._next_uses = FIRST_BLOCK_USES
        self._reserved_total = 0

    @property
    def left(self) -> int:
        """Uses that can be taken without a new reservation."""
        return self._left

    @property
    def next_uses(self) -> int:
        """How many uses to reserve next."""
        return self._next_uses

    @property
    def wants_rotation(self) -> bool:
        """Whether the version has reached the number at which the key is rotated."""
        return self._reserved_total >= ROTATE_AT_USES

    def add(self, *, uses: int, reserved_total: int) -> None:
        """Note a durable reservation of `uses`, making `reserved_total` in all."""
        self._left += uses
        self._next_uses = min(uses * _GROWTH, BLOCK_USES)
        self._reserved_total = max(self._reserved_total, reserved_total)

    def take(self) -> bool:
        """Take one use; return whether there was one."""
        if self._left == 0:
            return False
        self._left -= 1
        return True
