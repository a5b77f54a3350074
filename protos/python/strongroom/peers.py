"""The principal behind a TLS peer: exactly one ``spiffe://`` URI SAN, nothing else.

Common names, DNS names and e-mail addresses never count, and a certificate with two
URIs names nobody: a peer that could choose which of its names is believed could pass
one check with the first and the next with the second.
Source: SPIFFE X509-SVID, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

__all__ = ["PeerIdentityError", "principal_from_auth_context", "validate_spiffe_id"]

MAX_SPIFFE_ID_BYTES: Final = 2048  # SPIFFE-ID, section 2.3

_SPIFFE_ID: Final = re.compile(
    r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)+", re.ASCII
)


class PeerIdentityError(ValueError):
    """The peer does not name exactly one principal."""


def validate_spiffe_id(text: str) -> str:
    """Return `text` when it is a SPIFFE ID with a path.

    Raises:
        PeerIdentityError: It is not.
    """
    if len(text) > MAX_SPIFFE_ID_BYTES or _SPIFFE_ID.fullmatch(text) is None:
        raise PeerIdentityError("expected spiffe://{trust domain}/{path}, lower-case trust domain")
    return text


def principal_from_auth_context(auth_context: Mapping[str, Iterable[bytes]]) -> str:
    """Return the principal in a gRPC auth context.

    Args:
        auth_context: What ``ServicerContext.auth_context()`` returns.

    Raises:
        PeerIdentityError: The peer shows no certificate, or its certificate has not
            exactly one URI SAN, or that URI is not a SPIFFE ID.
    """
    uris = list(auth_context.get("peer_uri", ()))
    if len(uris) != 1:
        raise PeerIdentityError(
            f"the certificate has {len(uris)} URI SANs, it must have exactly one"
        )
    try:
        return validate_spiffe_id(uris[0].decode("ascii"))
    except UnicodeDecodeError as exc:
        raise PeerIdentityError("the URI SAN is not ASCII") from exc
