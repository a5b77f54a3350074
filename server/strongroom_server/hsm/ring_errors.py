"""What can be wrong with an operation, beside what `return_codes` knows.

Messages hold no secrets.
"""

from __future__ import annotations

from strongroom_server.hsm.return_codes import HsmTokenError

__all__ = ["ArgumentRefusedError", "MaterialDamagedError", "UnsupportedError"]


class MaterialDamagedError(HsmTokenError):
    """Wrapped material does not unwrap under a root that is well: a damaged record."""


class UnsupportedError(HsmTokenError):
    """The module does not do this; the message says what, in words for the caller."""


class ArgumentRefusedError(HsmTokenError):
    """An argument is wrong; the message is for the caller.

    `field` is its name.
    """

    def __init__(self, field: str, message: str):
        super().__init__(message)
        self.field = field
