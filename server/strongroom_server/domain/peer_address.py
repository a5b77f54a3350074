"""Where a call came from, without its port. Pure."""

from __future__ import annotations

from urllib.parse import unquote

__all__ = ["address_of"]


def address_of(peer: str) -> str:
    """Return the address of a peer as gRPC names it: every connection has another port.

    ``ipv4:192.0.2.1:50000`` is ``ipv4:192.0.2.1``, ``ipv6:%5B2001:db8::1%5D:50000`` is
    ``ipv6:[2001:db8::1]``. What has no port, such as ``unix:``, stays as it is.
    """
    address, _, port = peer.rpartition(":")
    return unquote(address) if address and port.isascii() and port.isdecimal() else peer
