"""Which calls a key of a spec and usage takes part in: one table, asked before every use.

Calls that manage a key are for every key, except those that the table names.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from strongroom_server.domain.algorithms import algorithms_of, is_pair
from strongroom_server.domain.keys import Key, KeySpec, KeyUsage
from strongroom_server.domain.policy import Action
from strongroom_server.errors import KeyUsageMismatchError

__all__ = ["check_takes_part", "takes_part"]

_Kind = tuple[KeySpec, KeyUsage]

_ALL: Final[frozenset[_Kind]] = frozenset(
    (spec, usage) for spec in KeySpec for usage in KeyUsage if algorithms_of(spec, usage)
)
_SYMMETRIC: Final[frozenset[_Kind]] = frozenset({(KeySpec.AES_256, KeyUsage.ENCRYPT_DECRYPT)})
_PAIRS: Final = frozenset(kind for kind in _ALL if is_pair(kind[0]))


def _of_usage(usage: KeyUsage) -> frozenset[_Kind]:
    return frozenset(kind for kind in _ALL if kind[1] is usage)


_TABLE: Final[Mapping[Action, frozenset[_Kind]]] = MappingProxyType(
    {
        Action.ENCRYPT: _of_usage(KeyUsage.ENCRYPT_DECRYPT),
        Action.DECRYPT: _of_usage(KeyUsage.ENCRYPT_DECRYPT),
        Action.RE_ENCRYPT_FROM: _SYMMETRIC,
        Action.RE_ENCRYPT_TO: _SYMMETRIC,
        Action.GENERATE_DATA_KEY: _SYMMETRIC,
        Action.GENERATE_DATA_KEY_WITHOUT_PLAINTEXT: _SYMMETRIC,
        Action.GENERATE_DATA_KEY_PAIR: _SYMMETRIC,
        Action.GENERATE_DATA_KEY_PAIR_WITHOUT_PLAINTEXT: _SYMMETRIC,
        Action.SIGN: _of_usage(KeyUsage.SIGN_VERIFY),
        Action.VERIFY: _of_usage(KeyUsage.SIGN_VERIFY),
        Action.GENERATE_MAC: _of_usage(KeyUsage.GENERATE_VERIFY_MAC),
        Action.VERIFY_MAC: _of_usage(KeyUsage.GENERATE_VERIFY_MAC),
        Action.DERIVE_SHARED_SECRET: _of_usage(KeyUsage.KEY_AGREEMENT),
        Action.GET_PUBLIC_KEY: _PAIRS,
        # A signature, an MAC or an RSA ciphertext does not say which version made it, and
        # everybody who has the public key would need the new one: these keys have one
        # version, as at AWS. Replace the key, and point its alias to the new one.
        Action.ROTATE_KEY: _SYMMETRIC,
    }
)


def takes_part(action: Action, spec: KeySpec, usage: KeyUsage) -> bool:
    """Say whether keys of a spec and usage take part in a call."""
    return (spec, usage) in _TABLE.get(action, _ALL)


def check_takes_part(action: Action, key: Key) -> None:
    """Refuse a call that is not for such keys.

    Raises:
        KeyUsageMismatchError: It is not.
    """
    if not takes_part(action, key.spec, key.usage):
        kind = f"{key.spec} for {key.usage}"
        raise KeyUsageMismatchError(str(key.name), kind, action)
