"""Wrapping: AES key wrap, which wrapped storage uses, and the forms that transfers can use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template, known_answers
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.key_kinds import KINDS, KeyKind
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
from strongroom_server.hsm.return_codes import Action, ReturnCodeError
from strongroom_server.hsm.token import KeyHandle

__all__ = ["PROBES"]

_GROUP: Final = "wrapping"
_NO_STORAGE: Final = "wrapped storage is refused"
_UNUSED: Final = "not used"
_NO_TRANSFER: Final = "no transfers by this form"
_TEXT: Final = b"strongroom doctor"
_RSA: Final[KeyKind] = KINDS[(KeySpec.RSA_2048, KeyUsage.ENCRYPT_DECRYPT)]


def _known_answer(scratch: Scratch) -> Finding:
    answer = known_answers.KEY_WRAP
    try:
        root = scratch.imported(answer.key, key_template.root())
        birth = key_template.material_at_birth(AES, only_for_trusted=False)
        material = scratch.imported(answer.material, birth)
    except ReturnCodeError as exc:
        if exc.action is not Action.POLICY:
            raise
        return quirk(f"no key can be imported to test it: {exc}", "used; relies on its self-test")
    if scratch.session.wrap(root, ck.aes_key_wrap(), material) != answer.wrapped:
        return missing("another result than RFC 3394, 4.6", _NO_STORAGE)
    return works("RFC 3394, 4.6", "wrapped storage")


def _round_trip(form: Callable[[], ck.Mechanism], use: str) -> Callable[[Scratch], Finding]:
    """Wrap and unwrap by a symmetric form: what one key sealed, its unwrapped self opens."""

    def run(scratch: Scratch) -> Finding:
        root = scratch.root()
        wrapped = scratch.session.wrap(root, form(), scratch.material())
        first, second = (scratch.unwrap(root, form(), wrapped) for _ in range(2))
        if not _are_one(scratch, first, second):
            return missing("gives back another key", use if use != "used" else _NO_STORAGE)
        return works(f"{len(wrapped)} bytes", use)

    return run


def _tampered(scratch: Scratch) -> Finding:
    root = scratch.root()
    wrapped = scratch.session.wrap(root, ck.aes_key_wrap(), scratch.material())
    forged = bytes([wrapped[0] ^ 1]) + wrapped[1:]
    refusal = refusal_of(lambda: scratch.unwrap(root, ck.aes_key_wrap(), forged))
    if refusal is None:
        return missing("accepted", _NO_STORAGE)
    return scratch.judge(refusal, str(refusal), good="told as a damaged record")


def _value_len(scratch: Scratch) -> Finding:
    root = scratch.root()
    wrapped = scratch.session.wrap(root, ck.aes_key_wrap(), scratch.material())
    shown = scratch.session.attributes(
        scratch.unwrap(root, ck.aes_key_wrap(), wrapped), ("VALUE_LEN",)
    )
    if shown.get("VALUE_LEN") != AES.key_bytes:
        return quirk(f"CKA_VALUE_LEN {shown.get('VALUE_LEN')!r}", "not checked")
    return works(f"CKA_VALUE_LEN {AES.key_bytes}", "not relied upon")


def _kwp(scratch: Scratch) -> Finding:
    """Compare with RFC 5649 as `cryptography` has it, under both of its numbers."""
    from cryptography.hazmat.primitives.keywrap import (  # noqa: PLC0415 - workers never need it
        aes_key_wrap_with_padding,
    )

    answer = known_answers.KEY_WRAP
    expected = aes_key_wrap_with_padding(answer.key, answer.material)
    root = scratch.imported(answer.key, key_template.root())
    material = scratch.imported(
        answer.material, key_template.material_at_birth(AES, only_for_trusted=False)
    )
    names = {
        "CKM_AES_KEY_WRAP_PAD": ck.CKM_AES_KEY_WRAP_PAD,
        "CKM_AES_KEY_WRAP_KWP": ck.CKM_AES_KEY_WRAP_KWP,
    }
    seen = []
    for name, number in names.items():
        try:
            wrapped = scratch.session.wrap(root, ck.plain(number), material)
        except ReturnCodeError:
            seen.append(f"no {name}")
            continue
        seen.append(
            f"{name}: " + ("RFC 5649" if wrapped == expected else f"another, {len(wrapped)} bytes")
        )
    detail = "; ".join(seen)
    if "RFC 5649" not in detail:
        return missing(detail, _UNUSED)
    if seen[0] != "CKM_AES_KEY_WRAP_PAD: RFC 5649":
        return quirk(detail, _UNUSED)
    return works(detail, _UNUSED)


def _rsa(
    form: Callable[[], ck.Mechanism], use: str, attributes: dict[str, AttributeValue]
) -> Callable[[Scratch], Finding]:
    def run(scratch: Scratch) -> Finding:
        public, private = scratch.pair(
            _RSA,
            public={"ENCRYPT": False, "WRAP": True},
            private={"DECRYPT": False, "UNWRAP": True, **attributes},
        )
        wrapped = scratch.session.wrap(public, form(), scratch.material())
        first, second = (scratch.unwrap(private, form(), wrapped) for _ in range(2))
        if not _are_one(scratch, first, second):
            return missing("gives back another key", _UNUSED)
        return works(f"{len(wrapped)} bytes", use)

    return run


def _kept_in(scratch: Scratch) -> Finding:
    refusal = refusal_of(
        lambda: scratch.session.wrap(scratch.root(), ck.aes_key_wrap(), scratch.aes())
    )
    if refusal is None:
        return missing("a key that is not extractable was wrapped", "refuses to start")
    return works(f"CKA_EXTRACTABLE false: {refusal}", "relied upon")


def _with_trusted(scratch: Scratch) -> Finding:
    consequence = "not asked for"
    key = scratch.material(WRAP_WITH_TRUSTED=True)
    refusal = refusal_of(lambda: scratch.session.wrap(scratch.root(), ck.aes_key_wrap(), key))
    if refusal is None:
        return missing("CKA_WRAP_WITH_TRUSTED is ignored", consequence)
    return works(f"CKA_WRAP_WITH_TRUSTED: {refusal}", "asked for when the root is CKA_TRUSTED")


def _are_one(scratch: Scratch, first: KeyHandle, second: KeyHandle) -> bool:
    iv = bytes(IV_BYTES)  # the keys live for this probe
    sealed = scratch.session.encrypt(first, ck.aes_gcm(iv, b"x"), _TEXT)
    return scratch.session.decrypt(second, ck.aes_gcm(iv, b"x"), sealed) == _TEXT


PROBES: Final = (
    Probe("wrap-aes-kw-known-answer", _GROUP, _known_answer, _NO_STORAGE),
    Probe("wrap-aes-kw", _GROUP, _round_trip(ck.aes_key_wrap, "wrapped storage"), _NO_STORAGE),
    Probe("wrap-aes-kw-tamper", _GROUP, _tampered, _NO_STORAGE),
    Probe("unwrapped-value-len", _GROUP, _value_len, _NO_STORAGE),
    Probe("kept-in", _GROUP, _kept_in, _NO_STORAGE, is_needed=True),
    Probe("wrap-with-trusted", _GROUP, _with_trusted, "not asked for"),
    Probe("wrap-aes-kwp", _GROUP, _kwp, _UNUSED),
    Probe(
        "wrap-aes-cbc-pad",
        _GROUP,
        _round_trip(lambda: ck.with_iv(ck.CKM_AES_CBC_PAD, bytes(16)), _UNUSED),
        _UNUSED,
    ),
    Probe(
        "wrap-aes-gcm",
        _GROUP,
        _round_trip(lambda: ck.aes_gcm(bytes(IV_BYTES), b""), _UNUSED),
        _UNUSED,
    ),
    Probe(
        "wrap-rsa-oaep-sha1",
        _GROUP,
        _rsa(lambda: ck.rsa_oaep("sha1"), "transfers, where SHA-256 is missing", {}),
        _NO_TRANSFER,
        is_slow=True,
    ),
    Probe(
        "wrap-rsa-oaep-sha256",
        _GROUP,
        _rsa(lambda: ck.rsa_oaep("sha256"), "transfers", {}),
        _NO_TRANSFER,
        is_slow=True,
    ),
    Probe(
        "wrap-rsa-pkcs1",
        _GROUP,
        _rsa(lambda: ck.plain(ck.CKM_RSA_PKCS), "not used (RFC 8017, 7.2)", {}),
        _UNUSED,
        is_slow=True,
    ),
)
