"""What travels between pool and worker: the operations, their fields and their limits.

`wire` puts them into bytes. The numbers of specs, usages and algorithms are those of
`key_kinds`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, NamedTuple

from strongroom_server.domain.algorithms import Algorithm
from strongroom_server.domain.keys import KeySpec, KeyUsage
from strongroom_server.hsm.key_kinds import KINDS, SPECS, USAGES, KeyKind

__all__ = [
    "KIND_BY_NUMBERS",
    "MAX_AAD_BYTES",
    "MAX_FIELD_BYTES",
    "MAX_WRAPPED_BYTES",
    "NO_KEY",
    "ORIGIN_EXTERNAL",
    "ORIGIN_HSM",
    "SPEC_NUMBERS",
    "USAGE_NUMBERS",
    "Answer",
    "ImportForm",
    "Operation",
    "Request",
    "Status",
    "WireError",
    "WireKey",
    "check_request",
]

MAX_FIELD_BYTES: Final = 4096 + 28
MAX_AAD_BYTES: Final = 8214
MAX_WRAPPED_BYTES: Final = 72  # HMAC_512 (docs/formats/wrapped-material-v1.md)
MAX_RANDOM_BYTES: Final = 1024
MAX_RSA_BYTES: Final = 512  # RSA_4096: a signature, a ciphertext
MAX_MESSAGE_BYTES: Final = 4096
MAX_PUBLIC_KEY_BYTES: Final = 600  # SubjectPublicKeyInfo of RSA_4096 has 550
MAX_TRANSFER_BYTES: Final = 1024  # docs/formats/key-transfer-v1.md
MAX_CHECK_BYTES: Final = 64

SPEC_NUMBERS: Final = {spec: at + 1 for at, spec in enumerate(SPECS)}
USAGE_NUMBERS: Final = {usage: at + 1 for at, usage in enumerate(USAGES)}
KIND_BY_NUMBERS: Final[Mapping[tuple[int, int], KeyKind]] = {
    (SPEC_NUMBERS[spec], USAGE_NUMBERS[usage]): kind for (spec, usage), kind in KINDS.items()
}
"""What `WireKey` means by its spec and usage."""


class WireError(ValueError):
    """The other end broke the protocol; the connection is of no use any more."""


class Operation(enum.IntEnum):
    """What the worker is asked to do. `number` is a size, or an `Algorithm`."""

    ENCRYPT = 1
    DECRYPT = 2
    REENCRYPT = 3
    DATA_KEY = 4
    SEALED_DATA_KEY = 5
    RANDOM = 6
    CREATE = 7
    """Make a token object."""
    LOAD = 8
    PING = 9
    CREATE_WRAPPED = 10
    """Make material, wrapped under the root that `key` names."""
    CREATE_ROOT = 11
    REWRAP = 12
    """Wrap `key` under the root that `key2` names."""
    PUBLIC_KEY = 13
    SIGN = 14
    """Sign `data`, a message."""
    SIGN_DIGEST = 15
    """Sign `data`, a message's digest."""
    VERIFY = 16
    """Verify `aad`, the signature of `data`, a message."""
    VERIFY_DIGEST = 17
    """Verify `aad`, the signature of `data`, a message's digest."""
    MAC = 18
    VERIFY_MAC = 19
    AGREE = 20
    """`data` is the other side's public key."""
    RSA_ENCRYPT = 21
    RSA_DECRYPT = 22
    MAKE_TRANSFER_KEY = 23
    """`number` is the size of the modulus in bits, `data` one byte, the algorithm, or none."""
    DESTROY_TRANSFER_KEY = 24
    EXPORT = 25
    """`data` is the target's public key."""
    IMPORT = 26
    """`key` is what the material will be, `key2` the transfer key, `data` the blob."""
    DESTROY = 27
    """Destroy what there is of `key`: token objects, and what was unwrapped."""
    IMPORT_EXTERNAL = 28
    """`key` is what the material will be, `key2` the wrapping key, `number` the algorithm,
    `data` the wrapped material, `aad` an `ImportForm` in one byte and the check value of
    the first import, if there was one. `first` is the check value, empty when the material
    has another; `second` what is to be stored."""


class ImportForm(enum.IntFlag):
    """How material from outside comes, and what is done with it."""

    KEY_WRAP = 1
    """An AES key stands between the wrapping key and the material."""
    KEEP = 2
    """It becomes the version's; else it is only compared with the check value."""


class Status(enum.IntEnum):
    """How an operation ended."""

    OK = 0
    TAMPERED = 1
    """Ciphertext, signature, MAC or transfer blob do not verify, and the HSM is well."""
    KEY_ABSENT = 2
    POLICY = 3
    EXPIRED = 4
    FAULT = 5
    """The worker ends after this frame; this operation may be tried on another."""
    DAMAGED = 6
    """The wrapped material does not unwrap, under a root that is well."""
    UNSUPPORTED = 7
    """The module does not do this."""
    INVALID = 8
    """An argument is wrong; `first` says which and why, for the caller."""
    FULL = 9
    """The token has no room for another object."""


class WireKey(NamedTuple):
    """Which material. `spec` and `usage` are numbers; a `root` of 0 means a token object.

    `origin` is what the metadata says: ORIGIN_HSM or ORIGIN_EXTERNAL.
    """

    ref: bytes
    spec: int
    usage: int
    root: int
    wrapped: bytes
    origin: int = 0


ORIGIN_HSM: Final = 0
ORIGIN_EXTERNAL: Final = 1
NO_KEY: Final = WireKey(bytes(20), 0, 0, 0, b"")


class Request(NamedTuple):
    """One operation. See `wire`."""

    id: int
    operation: int
    deadline: float
    number: int
    data: bytes
    aad: bytes
    aad2: bytes
    key: WireKey
    key2: WireKey


class Answer(NamedTuple):
    """The end of one operation."""

    id: int
    status: int
    microseconds: int
    first: bytes
    second: bytes


class _Form(enum.Enum):
    """What a key field has to be."""

    NONE = enum.auto()
    USED = enum.auto()
    """Material, resident or wrapped."""
    RESIDENT = enum.auto()
    WRAPPED = enum.auto()
    NEW = enum.auto()
    """Ref, spec and usage of material to come, and its root."""
    NEW_ANYWHERE = enum.auto()
    """The same; no root for a token object."""
    ROOT = enum.auto()
    """A root's number alone."""
    NAME = enum.auto()
    """A ref alone."""


# Whether a root is named, and whether there is wrapped material.
_PLACES: Final[Mapping[_Form, frozenset[tuple[bool, bool]]]] = {
    _Form.USED: frozenset({(False, False), (True, True)}),
    _Form.RESIDENT: frozenset({(False, False)}),
    _Form.WRAPPED: frozenset({(True, True)}),
    _Form.NEW: frozenset({(True, False)}),
    _Form.NEW_ANYWHERE: frozenset({(False, False), (True, False)}),
}


class _Rule(NamedTuple):
    """Limits of an operation's fields, inclusive; `key` is of one of `kinds`."""

    key: _Form = _Form.NONE
    key2: _Form = _Form.NONE
    kinds: frozenset[tuple[int, int]] = frozenset()
    min_number: int = 0
    max_number: int = 0
    numbers: frozenset[int] | None = None
    min_data: int = 0
    max_data: int = 0
    max_aad: int = 0
    max_aad2: int = 0


def _kinds(*usages: KeyUsage, aes: bool | None = None) -> frozenset[tuple[int, int]]:
    return frozenset(
        (SPEC_NUMBERS[spec], USAGE_NUMBERS[usage])
        for spec, usage in KINDS
        if usage in usages and (aes is None or (spec is KeySpec.AES_256) == aes)
    )


def _algorithms(prefixes: tuple[str, ...]) -> frozenset[int]:
    return frozenset(int(each) for each in Algorithm if each.name.startswith(prefixes))


_ALL: Final = _kinds(*USAGES)
_WRAPPABLE: Final = frozenset(
    (SPEC_NUMBERS[spec], USAGE_NUMBERS[usage])
    for (spec, usage), kind in KINDS.items()
    if kind.is_wrappable
)
_PAIRS: Final = _kinds(KeyUsage.SIGN_VERIFY, KeyUsage.KEY_AGREEMENT) | _kinds(
    KeyUsage.ENCRYPT_DECRYPT, aes=False
)
_AES: Final = _kinds(KeyUsage.ENCRYPT_DECRYPT, aes=True)
_RSA: Final = _kinds(KeyUsage.ENCRYPT_DECRYPT, aes=False)
_SIGNERS: Final = _kinds(KeyUsage.SIGN_VERIFY)
_MACS: Final = _kinds(KeyUsage.GENERATE_VERIFY_MAC)
_AGREERS: Final = _kinds(KeyUsage.KEY_AGREEMENT)
_SIGNATURES: Final = _algorithms(("RSASSA", "ECDSA", "ED25519"))
_DIGEST_SIGNATURES: Final = _algorithms(("RSASSA", "ECDSA"))
_HMACS: Final = _algorithms(("HMAC",))
_OAEPS: Final = _algorithms(("RSAES",))
_TRANSFER_BITS: Final = frozenset({3072, 4096})

_SEALED_MIN: Final = 12 + 1 + 16
_DIGEST_MIN: Final = 32
_DIGEST_MAX: Final = 64


def _use(kinds: frozenset[tuple[int, int]], **limits: object) -> _Rule:
    return _Rule(_Form.USED, kinds=kinds)._replace(**limits)  # type: ignore[arg-type]  # fields of _Rule, below


_RULES: Final[dict[int, _Rule]] = {
    Operation.ENCRYPT: _use(_AES, min_data=1, max_data=4096, max_aad=MAX_AAD_BYTES),
    Operation.DECRYPT: _use(
        _AES, min_data=_SEALED_MIN, max_data=MAX_FIELD_BYTES, max_aad=MAX_AAD_BYTES
    ),
    Operation.REENCRYPT: _use(
        _AES,
        key2=_Form.USED,
        min_data=_SEALED_MIN,
        max_data=MAX_FIELD_BYTES,
        max_aad=MAX_AAD_BYTES,
        max_aad2=MAX_AAD_BYTES,
    ),
    Operation.DATA_KEY: _use(
        _AES, min_number=1, max_number=MAX_RANDOM_BYTES, max_aad=MAX_AAD_BYTES
    ),
    Operation.SEALED_DATA_KEY: _use(
        _AES, min_number=1, max_number=MAX_RANDOM_BYTES, max_aad=MAX_AAD_BYTES
    ),
    Operation.RANDOM: _Rule(min_number=1, max_number=MAX_RANDOM_BYTES),
    Operation.CREATE: _Rule(_Form.RESIDENT, kinds=_ALL),
    Operation.LOAD: _Rule(_Form.RESIDENT, kinds=_ALL),
    Operation.PING: _Rule(),
    Operation.CREATE_WRAPPED: _Rule(_Form.NEW, kinds=_WRAPPABLE),
    Operation.CREATE_ROOT: _Rule(_Form.ROOT),
    Operation.REWRAP: _Rule(_Form.WRAPPED, _Form.ROOT, kinds=_WRAPPABLE),
    Operation.PUBLIC_KEY: _Rule(_Form.RESIDENT, kinds=_PAIRS),
    Operation.SIGN: _use(_SIGNERS, numbers=_SIGNATURES, max_data=MAX_MESSAGE_BYTES),
    Operation.SIGN_DIGEST: _use(
        _SIGNERS, numbers=_DIGEST_SIGNATURES, min_data=_DIGEST_MIN, max_data=_DIGEST_MAX
    ),
    Operation.VERIFY: _use(
        _SIGNERS, numbers=_SIGNATURES, max_data=MAX_MESSAGE_BYTES, max_aad=MAX_RSA_BYTES
    ),
    Operation.VERIFY_DIGEST: _use(
        _SIGNERS,
        numbers=_DIGEST_SIGNATURES,
        min_data=_DIGEST_MIN,
        max_data=_DIGEST_MAX,
        max_aad=MAX_RSA_BYTES,
    ),
    Operation.MAC: _use(_MACS, numbers=_HMACS, max_data=MAX_MESSAGE_BYTES),
    Operation.VERIFY_MAC: _use(
        _MACS, numbers=_HMACS, max_data=MAX_MESSAGE_BYTES, max_aad=_DIGEST_MAX
    ),
    Operation.AGREE: _use(_AGREERS, min_data=1, max_data=MAX_PUBLIC_KEY_BYTES),
    Operation.RSA_ENCRYPT: _use(_RSA, numbers=_OAEPS, max_data=MAX_RSA_BYTES),
    Operation.RSA_DECRYPT: _use(_RSA, numbers=_OAEPS, min_data=256, max_data=MAX_RSA_BYTES),
    Operation.MAKE_TRANSFER_KEY: _Rule(_Form.NAME, numbers=_TRANSFER_BITS, max_data=1),
    Operation.DESTROY_TRANSFER_KEY: _Rule(_Form.NAME),
    Operation.EXPORT: _Rule(
        _Form.WRAPPED,
        kinds=_WRAPPABLE,
        numbers=_OAEPS,
        min_data=1,
        max_data=MAX_PUBLIC_KEY_BYTES,
    ),
    Operation.DESTROY: _use(_ALL),
    Operation.IMPORT_EXTERNAL: _Rule(
        _Form.NEW_ANYWHERE,
        _Form.NAME,
        kinds=_WRAPPABLE,
        numbers=_OAEPS,
        min_data=1,
        max_data=MAX_TRANSFER_BYTES,
        max_aad=1 + MAX_CHECK_BYTES,
    ),
    Operation.IMPORT: _Rule(
        _Form.NEW_ANYWHERE,
        _Form.NAME,
        kinds=_WRAPPABLE,
        min_data=1,
        max_data=MAX_TRANSFER_BYTES,
    ),
}


def check_request(  # noqa: PLR0917 - the hot path: one positional call per operation
    operation: int,
    number: int,
    data: bytes,
    aad: bytes,
    aad2: bytes,
    key: WireKey,
    key2: WireKey,
) -> None:
    """Check the fields of one operation against its rule.

    Raises:
        WireError: A field is out of its limits.
    """
    rule = _RULES.get(operation)
    if (
        rule is None
        or not (
            number in rule.numbers
            if rule.numbers is not None
            else rule.min_number <= number <= rule.max_number
        )
        or not rule.min_data <= len(data) <= rule.max_data
        or not (rule.max_aad and 1) <= len(aad) <= rule.max_aad
        or not (rule.max_aad2 and 1) <= len(aad2) <= rule.max_aad2
        or not _fits(key, rule.key, rule.kinds)
        or not _fits(key2, rule.key2, rule.kinds)
    ):
        raise WireError("request: a field is out of its limits")


def _fits(key: WireKey, form: _Form, kinds: frozenset[tuple[int, int]]) -> bool:
    if form is _Form.NONE:
        return key is NO_KEY or key == NO_KEY
    ref, spec, usage, root, wrapped, origin = key
    if form is _Form.NAME:
        return ref != NO_KEY.ref and key == WireKey(ref, 0, 0, 0, b"")
    if form is _Form.ROOT:
        return root > 0 and key == WireKey(NO_KEY.ref, 0, 0, root, b"")
    return (
        ref != NO_KEY.ref
        and (spec, usage) in kinds
        and len(wrapped) <= MAX_WRAPPED_BYTES
        and origin in {ORIGIN_HSM, ORIGIN_EXTERNAL}
        and (root > 0, bool(wrapped)) in _PLACES[form]
    )
