"""Known quirks of PKCS#11 modules: the one table.

A quirk is what a module does otherwise than PKCS#11 or the others say, and what
Strongroom does about it. The doctor names it beside the feature it explains, and a
deviation without a row here is told as one that nobody has looked at. docs/hsm/ shows the
same table.

Rows marked as untested come from the vendor's documents alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from strongroom_server.hsm.token import TokenInfo

__all__ = ["QUIRKS", "Quirk", "quirks_of"]

_CKR_DEVICE_ERROR: Final = 0x030
_SOFTHSM: Final = "https://github.com/softhsm/SoftHSMv2"
_NSS: Final = "https://github.com/nss-dev/nss"
_KRYOPTIC: Final = "https://github.com/latchset/kryoptic"
_CLOUDHSM: Final = "https://docs.aws.amazon.com/cloudhsm/latest/userguide"
_LUNA: Final = "https://www.thalesdocs.com/gphsm/luna/7/docs/network/Content"
_YUBIHSM: Final = "https://docs.yubico.com/hardware/yubihsm-2/hsm-2-user-guide"
_NETHSM: Final = "https://docs.nitrokey.com/nethsm/pkcs11-setup"


@dataclass(frozen=True, slots=True)
class Quirk:
    """One row.

    Attributes:
        id: Stable; ``module-what``.
        module: Which of `_MODULES`.
        what: What the module does.
        strongroom: What Strongroom does about it.
        source: URL, or document and section; "probed" with the version where it was seen.
        features: The doctor's features (`probes`) that it explains.
        before: First firmware or library version without it; None for all known ones.
        lets_keys_out: The module lets the material of keys out that are not extractable,
            and is known and accepted for development all the same.
        ambiguous: Return codes that mean a fault elsewhere, and with which this module
            also answers bad input: a canary decides.
    """

    id: str
    module: str
    what: str
    strongroom: str
    source: str
    features: tuple[str, ...] = ()
    before: tuple[int, int] | None = None
    lets_keys_out: bool = False
    ambiguous: tuple[int, ...] = ()


_MODULES: Final[Mapping[str, tuple[str, str]]] = {
    # CK_INFO.manufacturerID, CK_TOKEN_INFO.manufacturerID: what either starts with.
    "SoftHSM 2": ("SoftHSM", "SoftHSM"),
    "NSS softokn": ("Mozilla Foundation", "Mozilla Foundation"),
    "kryoptic": ("Kryoptic", "Kryoptic"),
    "AWS CloudHSM": ("Marvell Semiconductors", "Marvell Semiconductors"),
    "Thales Luna": ("SafeNet", "SafeNet"),
    "YubiHSM 2": ("Yubico", "Yubico"),
    "Nitrokey NetHSM": ("Nitrokey", "Nitrokey"),
}

QUIRKS: Final[tuple[Quirk, ...]] = (
    Quirk(
        "softhsm-gcm-tamper-general-error",
        "SoftHSM 2",
        "answers CKR_GENERAL_ERROR, its answer to any fault, to a GCM tag that does not match",
        "tells a bad ciphertext from a bad HSM by a canary in the same session",
        f"{_SOFTHSM}/issues/690; probed 2.6.1",
        ("gcm-tamper-ciphertext", "gcm-tamper-tag", "gcm-tamper-aad", "gcm-cut"),
        before=(2, 7),
    ),
    Quirk(
        "softhsm-kw-tamper-general-error",
        "SoftHSM 2",
        "answers CKR_GENERAL_ERROR to a wrapped key that was changed",
        "tells it from a bad HSM by a canary in the same session",
        "probed 2.6.1",
        ("wrap-aes-kw-tamper",),
    ),
    Quirk(
        "softhsm-gcm-tag-bits",
        "SoftHSM 2",
        "makes and takes GCM tags of any whole number of bytes, none included",
        "asks for 128 bits, always (SP 800-38D, 5.2.1.2), and checks the result's length",
        "probed 2.6.1",
        ("gcm-short-tags",),
    ),
    Quirk(
        "softhsm-gcm-iv-lengths",
        "SoftHSM 2",
        "takes a GCM IV of no bytes at all",
        "uses 12 random bytes, always (SP 800-38D, 8.2.2)",
        "probed 2.6.1",
        ("gcm-other-iv",),
    ),
    Quirk(
        "softhsm-oaep-sha1",
        "SoftHSM 2",
        "knows RSAES-OAEP with SHA-1 only",
        "refuses RSAES_OAEP_SHA_256 as unsupported",
        f"{_SOFTHSM}/issues/474; probed 2.6.1",
        ("RSA_2048-oaep-sha256", "wrap-rsa-oaep-sha256"),
    ),
    Quirk(
        "softhsm-mechanism-flags",
        "SoftHSM 2",
        "leaves the flags of some mechanisms uninitialised in C_GetMechanismInfo",
        "reads names and sizes, never flags",
        "probed 2.6.1: CKM_AES_ECB, CKM_AES_CBC_PAD, CKM_AES_GCM",
    ),
    Quirk(
        "softhsm-unwrapped-value-len",
        "SoftHSM 2",
        "shows CKA_VALUE_LEN 0 for a key that was unwrapped",
        "does not check that attribute of unwrapped keys",
        "probed 2.6.1",
        ("unwrapped-value-len",),
    ),
    Quirk(
        "softhsm-wrap-forms",
        "SoftHSM 2",
        "wraps by CKM_AES_CBC and cannot unwrap by it; no CKM_AES_CBC_PAD, no CKM_AES_GCM",
        "wraps by CKM_AES_KEY_WRAP alone",
        "probed 2.6.1",
        ("wrap-aes-cbc-pad", "wrap-aes-gcm"),
    ),
    Quirk(
        "softhsm-edwards-params",
        "SoftHSM 2",
        "shows another form of CKA_EC_PARAMS for the private half of an Ed25519 pair (the "
        "curve's name) than the one that was asked for (its object identifier)",
        "takes either for the curve",
        "probed 2.6.1",
        ("ED25519-params",),
    ),
    Quirk(
        "softhsm-defaults",
        "SoftHSM 2",
        "a key without CKA_SENSITIVE, CKA_WRAP and CKA_UNWRAP is not sensitive and may wrap",
        "states every attribute, and reads it back",
        "probed 2.6.1",
        ("defaults-generate", "defaults-unwrap"),
    ),
    Quirk(
        "softhsm-oaep-general-error",
        "SoftHSM 2",
        "answers CKR_GENERAL_ERROR to an RSA ciphertext that does not decrypt",
        "tells a bad ciphertext from a bad HSM by a canary in the same session",
        "probed 2.6.1",
        ("RSA_2048-oaep-sha1",),
    ),
    Quirk(
        "softhsm-find-races-generate",
        "SoftHSM 2",
        "may answer CKR_GENERAL_ERROR to a search while another process makes a key",
        "searches at start and after creation only, and tries a search three times",
        f"{_SOFTHSM}/issues/573; {_SOFTHSM}/issues/576",
        before=(2, 7),
    ),
    Quirk(
        "softhsm-unwrap-leaks",
        "SoftHSM 2",
        "leaks about 350 bytes with each C_UnwrapKey, 310 with each C_DeriveKey",
        "keeps unwrapped keys in a bounded cache and replaces a worker after so many unwraps "
        "(recycle_after_unwraps)",
        f"{_SOFTHSM}/issues/677; {_SOFTHSM}/issues/643",
        before=(2, 7),
    ),
    Quirk(
        "softhsm-destroy-resurrects",
        "SoftHSM 2",
        "forgets the handle of an object before it deletes its file: when that fails, the "
        "object is back at the next start",
        "`strongroom hsm reconcile --apply` searches anew, in another process, after destroying",
        f"{_SOFTHSM}/issues/903",
    ),
    Quirk(
        "softhsm-no-fsync",
        "SoftHSM 2",
        "writes token objects in place and without fsync: a power cut can lose keys",
        "for development only; wrapped storage keeps material in the store instead",
        f"{_SOFTHSM}, src/lib/object_store/",
    ),
    Quirk(
        "nss-length-query",
        "NSS softokn",
        "estimates the length of a result when it is asked (32 for an AES-GCM result of 48 "
        "bytes), and fails when the second call passes that on",
        "passes a whole buffer in one call (PKCS#11 3.1, 5.2)",
        f"{_NSS}; probed 3.87",
    ),
    Quirk(
        "nss-parameters",
        "NSS softokn",
        "needs its LibraryParameters in C_Initialize",
        "passes module_parameters",
        "https://firefox-source-docs.mozilla.org/security/nss/legacy/pkcs11/module_specs/"
        "index.html",
    ),
    Quirk(
        "nss-local-false",
        "NSS softokn",
        "shows CKA_LOCAL false for keys that it generated",
        "checks CKA_ALWAYS_SENSITIVE and CKA_NEVER_EXTRACTABLE, which it sets",
        "probed 3.87",
        ("origin-attributes",),
    ),
    Quirk(
        "nss-wraps-unextractable",
        "NSS softokn",
        "C_WrapKey wraps keys that are not CKA_EXTRACTABLE: whoever has the PIN can take any "
        "key out",
        "runs on it, since it is known: for development and tests only",
        "probed 3.87",
        ("kept-in",),
        lets_keys_out=True,
    ),
    Quirk(
        "nss-wrap-with-trusted",
        "NSS softokn",
        "does not act upon CKA_WRAP_WITH_TRUSTED",
        "does not ask for it",
        "probed 3.87",
        ("wrap-with-trusted", "change-wrap-with-trusted"),
    ),
    Quirk(
        "nss-trusted-by-user",
        "NSS softokn",
        "lets a user make a key with CKA_TRUSTED",
        "gives CKA_TRUSTED no weight where CKA_WRAP_WITH_TRUSTED is not acted upon",
        "probed 3.87",
        ("user-cannot-trust",),
    ),
    Quirk(
        "nss-copy-extractable",
        "NSS softokn",
        "C_CopyObject makes an extractable copy of a key that is not",
        "runs on it, since it is known: for development and tests only",
        "probed 3.87",
        ("copy-extractable",),
        lets_keys_out=True,
    ),
    Quirk(
        "nss-copyable-ignored",
        "NSS softokn",
        "takes CKA_COPYABLE for session objects and ignores it; refuses it with "
        "CKR_GENERAL_ERROR for token objects",
        "does not ask for it",
        "probed 3.87",
        ("hardening-copyable",),
    ),
    Quirk(
        "nss-allowed-mechanisms-ignored",
        "NSS softokn",
        "takes CKA_ALLOWED_MECHANISMS for session objects and ignores it; refuses it with "
        "CKR_GENERAL_ERROR for token objects",
        "does not ask for it",
        "probed 3.87",
        ("hardening-allowed-mechanisms",),
    ),
    Quirk(
        "nss-defaults",
        "NSS softokn",
        "a key without CKA_EXTRACTABLE, CKA_SENSITIVE and CKA_PRIVATE is extractable, not "
        "sensitive and public",
        "states every attribute, and reads it back",
        "probed 3.87",
        ("defaults-generate", "defaults-unwrap"),
    ),
    Quirk(
        "nss-key-wrap-pad",
        "NSS softokn",
        "its CKM_AES_KEY_WRAP_PAD is an older form with PKCS#7 padding: 48 bytes where RFC 5649 "
        "has 40",
        "wraps by CKM_AES_KEY_WRAP alone, which all modules agree upon",
        "probed 3.87",
        ("wrap-aes-kwp",),
    ),
    Quirk(
        "nss-curves",
        "NSS softokn",
        "has no secp256k1 and, before 3.100, no Ed25519",
        "refuses such keys as unsupported",
        "probed 3.87",
        ("EC_SECP256K1-sign", "ED25519-sign", "ED25519-params"),
    ),
    Quirk(
        "nss-device-error",
        "NSS softokn",
        "answers CKR_DEVICE_ERROR to a MAC that does not verify, and to a PKCS#1 v1.5 signature "
        "of another message",
        "takes it for bad input when a canary in the same session is good; has MACs made again "
        "and compares them here",
        "probed 3.87",
        (
            "HMAC_224-hmac",
            "HMAC_256-hmac",
            "HMAC_384-hmac",
            "HMAC_512-hmac",
            "RSA_2048-sign-pkcs1",
            "RSA_3072-sign-pkcs1",
            "RSA_4096-sign-pkcs1",
        ),
        ambiguous=(_CKR_DEVICE_ERROR,),
    ),
    Quirk(
        "nss-oaep-range",
        "NSS softokn",
        "answers CKR_ARGUMENTS_BAD to an RSA ciphertext that is not below the modulus",
        "refuses such a ciphertext before it gets there (RFC 8017, 5.1.2)",
        "probed 3.87",
    ),
    Quirk(
        "nss-gcm-tags",
        "NSS softokn",
        "makes GCM tags of 32 bits and more",
        "asks for 128 bits, always (SP 800-38D, 5.2.1.2), and checks the result's length",
        "probed 3.87",
        ("gcm-short-tags",),
    ),
    Quirk(
        "nss-no-gcm-wrap",
        "NSS softokn",
        "does not wrap by CKM_AES_GCM",
        "wraps by CKM_AES_KEY_WRAP alone",
        "probed 3.87",
        ("wrap-aes-gcm",),
    ),
    Quirk(
        "kryoptic-device-error",
        "kryoptic",
        "answers CKR_DEVICE_ERROR to a wrapped key that was changed, and to an RSA ciphertext "
        "that does not decrypt",
        "takes it for bad input when a canary in the same session is good",
        f"{_KRYOPTIC}; probed 1.5.4",
        ("wrap-aes-kw-tamper", "RSA_2048-oaep-sha1", "RSA_2048-oaep-sha256"),
        ambiguous=(_CKR_DEVICE_ERROR,),
    ),
    Quirk(
        "kryoptic-trusted-by-user",
        "kryoptic",
        "lets a user make a key with CKA_TRUSTED",
        "gives CKA_WRAP_WITH_TRUSTED no more weight than the user's PIN",
        "probed 1.5.4",
        ("user-cannot-trust",),
    ),
    Quirk(
        "kryoptic-gcm-tags",
        "kryoptic",
        "makes GCM tags of 32 bits and more, and rounds 127 bits up to 128",
        "asks for 128 bits, always (SP 800-38D, 5.2.1.2), and checks the result's length",
        "probed 1.5.4",
        ("gcm-short-tags",),
    ),
    Quirk(
        "kryoptic-key-wrap-pad",
        "kryoptic",
        "has CKM_AES_KEY_WRAP_KWP and not its older name CKM_AES_KEY_WRAP_PAD",
        "wraps by CKM_AES_KEY_WRAP alone, which all modules agree upon",
        "probed 1.5.4",
        ("wrap-aes-kwp",),
    ),
    Quirk(
        "kryoptic-curves",
        "kryoptic",
        "has no secp256k1; no Ed25519 with OpenSSL before 3.2",
        "refuses such keys as unsupported",
        "probed 1.5.4 with OpenSSL 3.0",
        ("EC_SECP256K1-sign", "ED25519-sign", "ED25519-params"),
    ),
    Quirk(
        "cloudhsm-gcm-iv",
        "AWS CloudHSM",
        "untested: makes the GCM IV itself and writes it over the caller's",
        "refuses to start: an IV that the module chooses is not supported yet",
        f"{_CLOUDHSM}/pkcs11-mechanisms.html",
        ("gcm-iv-choice",),
    ),
    Quirk(
        "cloudhsm-16k",
        "AWS CloudHSM",
        "untested: C_Encrypt and C_Decrypt take at most 16 KiB with CKM_AES_GCM",
        "encrypts at most 4,096 bytes at a time",
        f"{_CLOUDHSM}/ki-pkcs11-sdk.html",
    ),
    Quirk(
        "luna-fips-gcm-iv",
        "Thales Luna",
        "untested: in FIPS mode makes the GCM IV itself, 16 bytes appended to the ciphertext",
        "refuses to start: an IV that the module chooses is not supported yet",
        f"{_LUNA}/sdk/mechanisms/CKM_AES_GCM.htm",
        ("gcm-iv-choice",),
    ),
    Quirk(
        "yubihsm-no-gcm",
        "YubiHSM 2",
        "untested: has no CKM_AES_GCM",
        "refuses to start",
        f"{_YUBIHSM}/hsm2-pkcs11-guide.html",
        ("gcm-known-answer",),
    ),
    Quirk(
        "nethsm-no-gcm",
        "Nitrokey NetHSM",
        "untested: symmetric keys do AES-CBC only; keys cannot be wrapped",
        "refuses to start",
        _NETHSM,
        ("gcm-known-answer", "wrap-aes-kw"),
    ),
)
"""Every known quirk."""


def quirks_of(info: TokenInfo) -> tuple[Quirk, ...]:
    """Return the quirks of the module and token that `info` is about."""
    version = info.library_version if any(info.library_version) else info.firmware_version
    return tuple(
        quirk
        for quirk in QUIRKS
        if _is_made_by(info, quirk.module) and (quirk.before is None or version < quirk.before)
    )


def _is_made_by(info: TokenInfo, module: str) -> bool:
    library, token = _MODULES[module]
    return info.library_manufacturer.startswith(library) or info.manufacturer.startswith(token)
