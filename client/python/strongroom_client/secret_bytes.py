"""Key bytes that can be wiped (docs/limitations.md says how far that goes)."""

from __future__ import annotations

from types import TracebackType
from typing import NoReturn, Self

__all__ = ["SecretBytes"]


class SecretBytes(bytearray):
    """A bytearray that hides its content in `repr` and can be wiped.

    Use it as a context manager, or call `wipe` when done. It is not pickled or copied
    by accident, and it compares by identity: compare secrets with `hmac.compare_digest`.
    """

    def wipe(self) -> None:
        """Overwrite the bytes with zeros, in place. The length stays.

        Thread safety: the caller makes sure that nobody is using the bytes.
        """
        # Through a view, which can only write in place: never to a new buffer.
        with memoryview(self) as view:
            view[:] = bytes(len(view))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.wipe()

    def __repr__(self) -> str:
        return f"<SecretBytes of {len(self)} bytes>"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return self is other

    def __ne__(self, other: object) -> bool:
        return self is not other

    __hash__ = None  # mutable, as bytearray itself

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("secret bytes are not pickled or copied")
