"""Sizes of AES-GCM as we use it, whatever else modules offer."""

from __future__ import annotations

from typing import Final

__all__ = ["IV_BYTES", "TAG_BYTES"]

IV_BYTES: Final = 12  # SP 800-38D, 5.2.1.1
TAG_BYTES: Final = 16  # SP 800-38D, 5.2.1.2: nothing shorter; modules accept even 0 bits
