"""Peers: exactly one SPIFFE ID in a URI SAN, nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.peers import PeerIdentityError, principal_from_auth_context, validate_spiffe_id

ORDERS = "spiffe://example.org/orders"


@pytest.mark.parametrize(
    "text",
    [
        ORDERS,
        "spiffe://a/b",
        "spiffe://example.org/ns/prod/sa/Orders_1.2-x",
        "spiffe://example.org/...",
        "spiffe://example.org/.hidden",
        "spiffe://e_x-1.org/a",
        "spiffe://example.org/" + "a" * (2048 - len("spiffe://example.org/")),
    ],
)
def test_spiffe_ids_with_a_path_are_accepted(text):
    """A SPIFFE ID that names a workload is returned as it is."""
    assert validate_spiffe_id(text) == text
    assert principal_from_auth_context({"peer_uri": [text.encode()]}) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe:///orders",
        "spiffe://Example.org/orders",
        "SPIFFE://example.org/orders",
        "https://example.org/orders",
        "spiffe://example.org//orders",
        "spiffe://example.org/orders/",
        "spiffe://example.org/./orders",
        "spiffe://example.org/a/../orders",
        "spiffe://example.org/orders/..",
        "spiffe://example.org:443/orders",
        "spiffe://user@example.org/orders",
        "spiffe://example.org/orders?x=1",
        "spiffe://example.org/orders#x",
        "spiffe://example.org/or%64ers",
        "spiffe://example.org/orders\n",
        " spiffe://example.org/orders",
        "spiffe://example.org/orders\x00x",
        'spiffe://example.org/"quoted"',
        "spiffe://example.org/a,spiffe://example.org/b",
        "spiffe://example.org/órders",
        "spiffe://" + "a" * 256 + "/b",
        "spiffe://example.org/" + "a" * (2049 - len("spiffe://example.org/")),
    ],
)
def test_other_uris_are_refused(text):
    """No path, dot segments, ports, users, queries, escapes, other schemes or scripts."""
    with pytest.raises(PeerIdentityError):
        validate_spiffe_id(text)
    with pytest.raises(PeerIdentityError):
        principal_from_auth_context({"peer_uri": [text.encode()]})


@given(text=st.text(max_size=60))
def test_any_text_is_refused_or_needs_no_escaping(text):
    """What is accepted has no character that means something to Cedar, JSON or a shell."""
    for candidate in (text, f"spiffe://example.org/{text}"):
        try:
            accepted = validate_spiffe_id(candidate)
        except PeerIdentityError:
            continue
        assert accepted == candidate
        assert not set(accepted) & set("\"'\\ \t\r\n$`%?#@,;")


@pytest.mark.parametrize(
    "auth_context",
    [
        {},
        {"peer_uri": []},
        {"peer_uri": [ORDERS.encode(), ORDERS.encode()]},
        {"peer_uri": [ORDERS.encode(), b"spiffe://example.org/payments"]},
        {"peer_uri": [ORDERS.encode(), b"https://example.org"]},
        {"x509_common_name": [ORDERS.encode()]},
        {"x509_subject_alternative_name": [ORDERS.encode()]},
        {"peer_dns": [ORDERS.encode()], "x509_common_name": [b"orders"]},
        {"peer_spiffe_id": [ORDERS.encode()]},
        {"peer_email": [ORDERS.encode()]},
        {"peer_uri": [b"spiffe://example.org/\xff"]},
        {"peer_uri": ["spiffe://example.org/é".encode()]},
    ],
)
def test_a_peer_without_exactly_one_uri_names_nobody(auth_context):
    """No URI, two URIs, common names, DNS names and e-mail addresses are refused."""
    with pytest.raises(PeerIdentityError):
        principal_from_auth_context(auth_context)


def test_names_beside_the_uri_do_not_count():
    """A common name and DNS names beside the one URI change nothing."""
    auth_context = {
        "x509_common_name": [b"spiffe://example.org/root"],
        "peer_dns": [b"orders.example.org"],
        "peer_uri": [ORDERS.encode()],
    }
    assert principal_from_auth_context(auth_context) == ORDERS
