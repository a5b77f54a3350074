"""How long operations take: medians over a bounded time, of one session."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.probes.probe import Finding, Probe, Scratch, works

__all__ = ["PROBES"]

_GROUP: Final = "speed"
_ROUNDS: Final = 300
_SECONDS: Final = 0.5
_LEAST: Final = 3
_TEXT: Final = bytes(32)  # a data key
_AAD: Final = bytes(100)
_ECDSA: Final[KeyKind] = KINDS[(KeySpec.EC_P256, KeyUsage.SIGN_VERIFY)]
_RSA: Final[KeyKind] = KINDS[(KeySpec.RSA_2048, KeyUsage.SIGN_VERIFY)]
_MAC: Final[KeyKind] = KINDS[(KeySpec.HMAC_256, KeyUsage.GENERATE_VERIFY_MAC)]


def _measure(call: Callable[[], object]) -> Finding:
    """Return the median time, over 300 calls or half a second, 3 calls at least."""
    taken: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(taken) < _ROUNDS and (len(taken) < _LEAST or time.perf_counter() < end):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return works(f"{1e6 * statistics.median(taken):,.0f} µs, median of {len(taken)}", "")


def _encrypt(scratch: Scratch) -> Finding:
    key = scratch.aes()
    return _measure(
        lambda: scratch.session.encrypt(
            key, ck.aes_gcm(scratch.session.random(IV_BYTES), _AAD), _TEXT
        )
    )


def _decrypt(scratch: Scratch) -> Finding:
    key, iv = scratch.aes(), scratch.session.random(IV_BYTES)
    sealed = scratch.session.encrypt(key, ck.aes_gcm(iv, _AAD), _TEXT)
    return _measure(lambda: scratch.session.decrypt(key, ck.aes_gcm(iv, _AAD), sealed))


def _random(scratch: Scratch) -> Finding:
    return _measure(lambda: scratch.session.random(44))


def _generate(scratch: Scratch) -> Finding:
    return _measure(lambda: scratch.drop(scratch.aes()))


def _wrap(scratch: Scratch) -> Finding:
    root, material = scratch.root(), scratch.material()
    return _measure(lambda: scratch.session.wrap(root, ck.aes_key_wrap(), material))


def _unwrap(scratch: Scratch) -> Finding:
    root = scratch.root()
    wrapped = scratch.session.wrap(root, ck.aes_key_wrap(), scratch.material())
    return _measure(lambda: scratch.drop(scratch.unwrap(root, ck.aes_key_wrap(), wrapped)))


def _mac(scratch: Scratch) -> Finding:
    key = scratch.secret(_MAC)
    return _measure(lambda: scratch.session.sign(key, ck.hmac("sha256"), _TEXT))


def _sign_ecdsa(scratch: Scratch) -> Finding:
    _, private = scratch.pair(_ECDSA)
    return _measure(lambda: scratch.session.sign(private, ck.ecdsa(), _TEXT))


def _sign_rsa(scratch: Scratch) -> Finding:
    _, private = scratch.pair(_RSA)
    digest = hashlib.sha256(_TEXT).digest()
    return _measure(lambda: scratch.session.sign(private, ck.rsa_pss("sha256"), digest))


PROBES: Final = tuple(
    Probe(f"speed-{name}", _GROUP, run, "", is_slow=True)
    for name, run in (
        ("encrypt-with-iv", _encrypt),
        ("decrypt", _decrypt),
        ("random-44-bytes", _random),
        ("generate-and-destroy", _generate),
        ("wrap-aes-kw", _wrap),
        ("unwrap-and-destroy", _unwrap),
        ("hmac-sha256", _mac),
        ("sign-ecdsa-p256", _sign_ecdsa),
        ("sign-pss-rsa2048", _sign_rsa),
    )
)
