"""Whoever has the PIN, at work: tries to get the keys on a token out of it.

    python hsm_attacks.py < ORDER

ORDER is a JSON object: module, label, pin, parameters. Prints a JSON object: feature of
the doctor → how often it was refused, how often it was done. A program of its own,
because modules keep what they were told.
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from collections.abc import Callable

from strongroom_server.hsm import ck_mechanisms as ck
from strongroom_server.hsm import key_template
from strongroom_server.hsm.ck_attributes import AttributeValue
from strongroom_server.hsm.return_codes import ReturnCodeError
from strongroom_server.hsm.token import KeyHandle, TokenSession

_ATTACKERS_KEY: dict[str, AttributeValue] = {
    "CLASS": ck.CKO_SECRET_KEY,
    "KEY_TYPE": ck.CKK_AES,
    "TOKEN": False,
    "PRIVATE": True,
    "WRAP": True,
    "UNWRAP": True,
    "ENCRYPT": True,
    "DECRYPT": True,
    "VALUE_LEN": 32,
}


def attack(session: TokenSession) -> dict[str, list[int]]:
    """Try everything on every secret and private key of ours; return refused, done."""
    outcomes: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def attempt(feature: str, act: Callable[[], object]) -> None:
        try:
            act()
        except ReturnCodeError:
            outcomes[feature][0] += 1
        else:
            outcomes[feature][1] += 1

    mine = session.generate_key(ck.plain(ck.CKM_AES_KEY_GEN), _ATTACKERS_KEY)
    for key, is_root in _ours(session):
        for feature, change in (
            ("change-extractable", {"EXTRACTABLE": True}),
            ("change-sensitive", {"SENSITIVE": False}),
            ("hardening-modifiable", {"WRAP": True}),
        ):
            attempt(feature, lambda key=key, change=change: session.set_attributes(key, change))  # type: ignore[misc]  # bound per round
        for feature, change in (
            ("copy-extractable", {"TOKEN": False, "EXTRACTABLE": True}),
            ("copy-sensitive", {"TOKEN": False, "SENSITIVE": False}),
        ):
            attempt(feature, lambda key=key, change=change: session.copy(key, change))  # type: ignore[misc]  # bound per round
        attempt("kept-in", lambda key=key: session.wrap(mine, ck.aes_key_wrap(), key))  # type: ignore[misc]  # bound per round
        attempt("value-hidden", lambda key=key: _read_value(session, key))  # type: ignore[misc]  # bound per round
        if is_root:
            for feature, act in (
                ("wrap-then-decrypt", session.decrypt),
                ("root-encrypts", session.encrypt),
            ):
                for mechanism in (ck.plain(ck.CKM_AES_ECB), ck.aes_gcm(os.urandom(12), b"x")):
                    attempt(
                        feature,
                        lambda key=key, act=act, mechanism=mechanism: act(  # type: ignore[misc]  # bound per round
                            key, mechanism, bytes(32)
                        ),
                    )
        else:
            attempt("version-wraps", lambda key=key: session.wrap(key, ck.aes_key_wrap(), mine))  # type: ignore[misc]  # bound per round
    return outcomes


def _ours(session: TokenSession) -> list[tuple[KeyHandle, bool]]:
    found = []
    for object_class in (ck.CKO_SECRET_KEY, ck.CKO_PRIVATE_KEY):
        for handle in session.find({"TOKEN": True, "CLASS": object_class}):
            shown = session.attributes(handle, ("ID", "LABEL"))
            is_root = key_template.root_number(shown.get("ID"), shown.get("LABEL")) is not None
            if is_root or key_template.key_id_of(shown.get("ID"), shown.get("LABEL")):
                found.append((handle, is_root))
    return found


def _read_value(session: TokenSession, key: KeyHandle) -> None:
    if "VALUE" not in session.attributes(key, ("VALUE",)):
        raise ReturnCodeError(0x11)  # CKR_ATTRIBUTE_SENSITIVE, which `attributes` leaves out


if __name__ == "__main__":
    order = json.load(sys.stdin)
    opened = TokenSession.open(
        order["module"], order["label"], order["pin"], parameters=order["parameters"]
    )
    sys.stdout.write(json.dumps(attack(opened)))
    sys.stdout.flush()
    os._exit(0)  # modules with OpenSSL inside crash in their exit handlers
