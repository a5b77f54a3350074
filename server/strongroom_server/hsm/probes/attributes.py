"""Attributes: what they are when left out, which take effect, which changes are refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.mechanisms import IV_BYTES
from strongroom_server.hsm.probes.probe import (
    AES,
    Finding,
    Probe,
    Scratch,
    missing,
    quirk,
    refusal_of,
    works,
)
from strongroom_server.hsm.token import KeyHandle

__all__ = ["PROBES"]

_DEFAULTS: Final = "attributes, left out"
_CHANGES: Final = "changes, refused"
_HARDENING: Final = "hardening"
_EXPLICIT: Final = "every attribute is stated"
_REFUSED: Final = "refuses to start"
_RELIED: Final = "relied upon"
_SHOWN: Final = ("PRIVATE", "SENSITIVE", "EXTRACTABLE", "ENCRYPT", "DECRYPT", "WRAP", "UNWRAP")
_SAFE: Final[dict[str, AttributeValue]] = {
    "PRIVATE": True,
    "SENSITIVE": True,
    "EXTRACTABLE": False,
    "WRAP": False,
    "UNWRAP": False,
}
_ORIGIN: Final = ("LOCAL", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE")


def _read_back(scratch: Scratch) -> Finding:
    template = {**key_template.resident_secret(AES).fixed, "TOKEN": False}
    shown = scratch.session.attributes(scratch.aes(), (*template, "VALUE_LEN"))
    wrong = [name for name, value in template.items() if shown.get(name) != value]
    if wrong:
        return missing(f"shows another CKA_{', CKA_'.join(wrong)}", _REFUSED)
    return works("every attribute of a new key is as asked for", "checked for every key")


def _origin(scratch: Scratch) -> Finding:
    shown = scratch.session.attributes(scratch.aes(), _ORIGIN)
    untold = [name for name in _ORIGIN if shown.get(name) is not True]
    if untold:
        return quirk(f"CKA_{', CKA_'.join(untold)} not set on a generated key", "the others")
    return works("CKA_LOCAL, CKA_ALWAYS_SENSITIVE, CKA_NEVER_EXTRACTABLE", "checked for every key")


def _value_hidden(scratch: Scratch) -> Finding:
    for key in (scratch.aes(), scratch.material()):
        if "VALUE" in scratch.session.attributes(key, ("VALUE",)):
            return missing("CKA_VALUE of a sensitive key is shown", _REFUSED)
    return works("CKA_VALUE of a sensitive key is not shown", _RELIED)


def _generated_bare(scratch: Scratch) -> Finding:
    key = scratch.keep(
        scratch.session.generate_key(
            ck.plain(ck.CKM_AES_KEY_GEN), {"TOKEN": False, "VALUE_LEN": AES.key_bytes}
        )
    )
    return _judge_defaults(scratch, key)


def _unwrapped_bare(scratch: Scratch) -> Finding:
    root = scratch.root()
    wrapped = scratch.session.wrap(root, ck.aes_key_wrap(), scratch.material())
    template: dict[str, AttributeValue] = {
        "CLASS": ck.CKO_SECRET_KEY,
        "KEY_TYPE": ck.CKK_AES,
        "TOKEN": False,
    }
    return _judge_defaults(
        scratch, scratch.keep(scratch.session.unwrap(root, ck.aes_key_wrap(), wrapped, template))
    )


def _judge_defaults(scratch: Scratch, key: KeyHandle) -> Finding:
    shown = scratch.session.attributes(key, _SHOWN)
    unsafe = [
        f"CKA_{name} {str(shown.get(name, 'not shown')).lower()}"
        for name, value in _SAFE.items()
        if shown.get(name) != value
    ]
    if unsafe:
        return quirk(", ".join(unsafe), _EXPLICIT)
    return works("private, sensitive, not extractable, no wrapping", _EXPLICIT)


def _refused(
    act: Callable[[Scratch], object], *, without: str = _REFUSED
) -> Callable[[Scratch], Finding]:
    def run(scratch: Scratch) -> Finding:
        refusal = refusal_of(lambda: act(scratch))
        if refusal is None:
            return missing("done instead of refused", without)
        return works(str(refusal), _RELIED)

    return run


def _changed(scratch: Scratch, **change: AttributeValue) -> None:
    scratch.session.set_attributes(scratch.aes(), change)


def _copied(scratch: Scratch, **change: AttributeValue) -> None:
    scratch.keep(scratch.session.copy(scratch.aes(), change))


def _untrusting(scratch: Scratch) -> None:
    key = scratch.material(WRAP_WITH_TRUSTED=True)
    scratch.session.set_attributes(key, {"WRAP_WITH_TRUSTED": False})


def _wrapped_then_decrypted(scratch: Scratch) -> None:
    """Try to read material by decrypting its wrapped form under the root."""
    root = scratch.root()
    wrapped = scratch.session.wrap(root, ck.aes_key_wrap(), scratch.material())
    scratch.session.decrypt(root, ck.plain(ck.CKM_AES_ECB), wrapped[:32])


def _root_encrypts(scratch: Scratch) -> None:
    scratch.session.encrypt(scratch.root(), ck.aes_gcm(bytes(IV_BYTES), b"x"), b"x")


def _version_wraps(scratch: Scratch) -> None:
    """Wrap by a key version's own key."""
    scratch.session.wrap(scratch.aes(), ck.aes_key_wrap(), scratch.material())


def _not_allowed(scratch: Scratch) -> None:
    key = scratch.aes(ALLOWED_MECHANISMS=AES.mechanisms)
    scratch.session.encrypt(key, ck.plain(ck.CKM_AES_ECB), bytes(16))


def _hardened(act: Callable[[Scratch], object], name: str) -> Callable[[Scratch], Finding]:
    def run(scratch: Scratch) -> Finding:
        refusal = refusal_of(lambda: act(scratch))
        if refusal is None:
            return missing(f"CKA_{name} is taken and ignored", "not asked for")
        return works(str(refusal), "asked for")

    return run


PROBES: Final = (
    Probe("read-back", _DEFAULTS, _read_back, _REFUSED, is_needed=True),
    Probe("value-hidden", _DEFAULTS, _value_hidden, _REFUSED, is_needed=True),
    Probe("origin-attributes", _DEFAULTS, _origin, "not checked"),
    Probe("defaults-generate", _DEFAULTS, _generated_bare, _EXPLICIT),
    Probe("defaults-unwrap", _DEFAULTS, _unwrapped_bare, _EXPLICIT),
    Probe(
        "change-extractable",
        _CHANGES,
        _refused(lambda scratch: _changed(scratch, EXTRACTABLE=True)),
        _REFUSED,
        is_needed=True,
    ),
    Probe(
        "change-sensitive",
        _CHANGES,
        _refused(lambda scratch: _changed(scratch, SENSITIVE=False)),
        _REFUSED,
        is_needed=True,
    ),
    Probe(
        "copy-extractable",
        _CHANGES,
        _refused(lambda scratch: _copied(scratch, EXTRACTABLE=True)),
        _REFUSED,
        is_needed=True,
    ),
    Probe(
        "copy-sensitive",
        _CHANGES,
        _refused(lambda scratch: _copied(scratch, SENSITIVE=False)),
        _REFUSED,
        is_needed=True,
    ),
    Probe(
        "wrap-then-decrypt", _CHANGES, _refused(_wrapped_then_decrypted), _REFUSED, is_needed=True
    ),
    Probe("root-encrypts", _CHANGES, _refused(_root_encrypts), _REFUSED, is_needed=True),
    Probe("version-wraps", _CHANGES, _refused(_version_wraps), _REFUSED, is_needed=True),
    Probe(
        "change-wrap-with-trusted",
        _CHANGES,
        _refused(_untrusting, without="not asked for"),
        "not asked for",
    ),
    Probe(
        "user-cannot-trust",
        _CHANGES,
        _refused(lambda scratch: scratch.root(TRUSTED=True), without="CKA_TRUSTED proves nothing"),
        "CKA_TRUSTED proves nothing",
    ),
    Probe(
        "hardening-modifiable",
        _HARDENING,
        _hardened(
            lambda scratch: scratch.session.set_attributes(
                scratch.aes(MODIFIABLE=False), {"WRAP": True}
            ),
            "MODIFIABLE",
        ),
        "not asked for",
    ),
    Probe(
        "hardening-copyable",
        _HARDENING,
        _hardened(
            lambda scratch: scratch.keep(
                scratch.session.copy(scratch.aes(COPYABLE=False), {"LABEL": "copy"})
            ),
            "COPYABLE",
        ),
        "not asked for",
    ),
    Probe(
        "hardening-allowed-mechanisms",
        _HARDENING,
        _hardened(_not_allowed, "ALLOWED_MECHANISMS"),
        "not asked for",
    ),
)
