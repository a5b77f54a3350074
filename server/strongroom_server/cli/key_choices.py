"""Kinds of keys, usages, algorithms and pairs as they are typed: the API's names, in any case."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from strongroom_client import Algorithm

__all__ = [
    "AlgorithmOption",
    "PairSpec",
    "Spec",
    "Usage",
    "chosen_algorithm",
]


class Spec(enum.StrEnum):
    """What the material of a new key is."""

    AES_256 = "AES_256"
    HMAC_224 = "HMAC_224"
    HMAC_256 = "HMAC_256"
    HMAC_384 = "HMAC_384"
    HMAC_512 = "HMAC_512"
    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    EC_SECP256K1 = "EC_SECP256K1"
    ED25519 = "ED25519"


class Usage(enum.StrEnum):
    """What a new key is for."""

    ENCRYPT_DECRYPT = "ENCRYPT_DECRYPT"
    SIGN_VERIFY = "SIGN_VERIFY"
    GENERATE_VERIFY_MAC = "GENERATE_VERIFY_MAC"
    KEY_AGREEMENT = "KEY_AGREEMENT"


class PairSpec(enum.StrEnum):
    """Kinds of data key pairs."""

    RSA_2048 = "RSA_2048"
    RSA_3072 = "RSA_3072"
    RSA_4096 = "RSA_4096"
    EC_P256 = "EC_P256"
    EC_P384 = "EC_P384"
    EC_P521 = "EC_P521"
    EC_SECP256K1 = "EC_SECP256K1"
    ED25519 = "ED25519"


AlgorithmOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What to do, such as RSASSA_PSS_SHA_256; needed with an RSA key. `keys show` has "
        "what a key takes.",
    ),
]


def chosen_algorithm(text: str | None) -> Algorithm | None:
    """Return the algorithm that was typed.

    Raises:
        CliError: There is none of that name.
    """
    from strongroom_client import Algorithm
    from strongroom_server.cli.failures import CliError

    if text is None:
        return None
    algorithm = Algorithm.__members__.get(text.upper())
    if algorithm is None or algorithm is Algorithm.UNKNOWN:
        names = ", ".join(each for each in Algorithm if each is not Algorithm.UNKNOWN)
        raise CliError.usage(f"--algorithm {text!r}: there are {names}")
    return algorithm
