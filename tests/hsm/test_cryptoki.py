"""The function table of a real module: buffers, handles, raw codes."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap

from strongroom_server.hsm import ck_mechanisms as mechanisms
from strongroom_server.hsm.ck_attributes import Template
from strongroom_server.hsm.cryptoki import Cryptoki
from strongroom_server.hsm.return_codes import ModuleUnusableError, ReturnCodeError
from strongroom_server.hsm.token import TokenSession

_SESSION_AES: Template = {
    "CLASS": mechanisms.CKO_SECRET_KEY,
    "KEY_TYPE": mechanisms.CKK_AES,
    "TOKEN": False,
    "PRIVATE": True,
    "SENSITIVE": False,
    "EXTRACTABLE": True,
    "ENCRYPT": True,
    "DECRYPT": True,
    "WRAP": True,
    "UNWRAP": True,
}


def _imported(material: bytes) -> Template:
    return {**_SESSION_AES, "VALUE": material}


def test_gcm_is_what_cryptography_makes(session: TokenSession) -> None:
    """Ciphertexts of the module and of `cryptography` are the same bytes."""
    material, iv, aad = os.urandom(32), os.urandom(12), b"context"
    key = session.create_object(_imported(material))
    for length in (0, 1, 16, 4096):
        plaintext = os.urandom(length)
        sealed = session.encrypt(key, mechanisms.aes_gcm(iv, aad), plaintext)
        assert sealed == AESGCM(material).encrypt(iv, plaintext, aad)
        assert session.decrypt(key, mechanisms.aes_gcm(iv, aad), sealed) == plaintext


def test_wrapped_key_is_rfc_3394(session: TokenSession) -> None:
    """What the module wraps, another implementation unwraps."""
    root, material = os.urandom(32), os.urandom(32)
    wrapping = session.create_object(_imported(root))
    key = session.create_object(_imported(material))
    wrapped = session.wrap(wrapping, mechanisms.aes_key_wrap(), key)
    assert aes_key_unwrap(root, wrapped) == material
    again = session.unwrap(wrapping, mechanisms.aes_key_wrap(), wrapped, _SESSION_AES)
    assert session.attributes(again, ("VALUE",)) == {"VALUE": material}


def test_search_returns_more_than_one_chunk(session: TokenSession) -> None:
    """Six hundred objects are found, each once, and the session is free afterwards."""
    made = {session.create_object({**_imported(os.urandom(32)), "ID": b"many"}) for _ in range(600)}
    found = session.find({"CLASS": mechanisms.CKO_SECRET_KEY, "ID": b"many"})
    assert len(found) == 600
    assert set(found) == made
    assert session.find({"CLASS": mechanisms.CKO_SECRET_KEY, "ID": b"none"}) == []


def test_attributes_that_are_not_shown_are_left_out(session: TokenSession) -> None:
    """A sensitive value is not there; what stands beside it is."""
    key = session.create_object({**_imported(os.urandom(32)), "SENSITIVE": True})
    shown = session.attributes(key, ("VALUE", "VALUE_LEN", "SENSITIVE", "EC_POINT"))
    assert shown == {"VALUE_LEN": 32, "SENSITIVE": True}


def test_raw_code_is_kept(session: TokenSession) -> None:
    """An error carries the module's own number."""
    key = session.create_object(_imported(os.urandom(32)))
    session.destroy(key)
    with pytest.raises(ReturnCodeError) as caught:
        session.encrypt(key, mechanisms.aes_gcm(bytes(12), b"x"), b"x")
    assert caught.value.rv in {0x60, 0x82}


def test_reopened_session_keeps_the_login_and_loses_session_objects(
    session: TokenSession,
) -> None:
    """Another working session needs no PIN; objects of the old one are gone."""
    key = session.create_object(_imported(os.urandom(32)))
    session.reopen()
    with pytest.raises(ReturnCodeError):
        session.encrypt(key, mechanisms.aes_gcm(bytes(12), b"x"), b"x")
    private = session.create_object(_imported(os.urandom(32)))  # needs the login
    assert session.encrypt(private, mechanisms.aes_gcm(bytes(12), b"x"), b"x")


def test_token_says_who_it_is(session: TokenSession) -> None:
    """Label, model and mechanisms come from the token."""
    info = session.info()
    assert (info.label, info.model) == ("strongroom-test", "SoftHSM v2")
    found = session.mechanisms()
    assert found[mechanisms.CKM_RSA_PKCS_KEY_PAIR_GEN].max_key_size >= 4096
    assert mechanisms.CKM_AES_GCM in found


@pytest.mark.parametrize("path", ["/nonexistent/module.so", "/etc/hostname", "libc.so.6"])
def test_no_module_is_refused(path: str) -> None:
    """A file that is no PKCS#11 library is told by name."""
    with pytest.raises(ModuleUnusableError, match=path):
        Cryptoki(path)
