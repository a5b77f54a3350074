"""The doctor's questions, in the order in which they are asked.

Probes that trust the session come first; those that reopen it or count sessions last.
"""

from __future__ import annotations

from typing import Final

from strongroom_server.hsm.probes import (
    agreement,
    attributes,
    basics,
    gcm,
    signing,
    speed,
    wrapping,
)
from strongroom_server.hsm.probes.probe import Finding, Outcome, Probe, Scratch

__all__ = ["PROBES", "Finding", "Outcome", "Probe", "Scratch"]

PROBES: Final[tuple[Probe, ...]] = (
    *basics.FIRST,
    *gcm.PROBES,
    *wrapping.PROBES,
    *attributes.PROBES,
    *signing.PROBES,
    *agreement.PROBES,
    *speed.PROBES,
    *basics.LAST,
)
"""Every probe; features are unique."""
