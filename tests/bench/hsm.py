"""The floor of an HSM operation: raw python-pkcs11, one process, one thread."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from strongroom_server.hsm.softhsm import init_token

__all__ = ["raw_data_key_us"]

# A process of its own: the module is configured by its environment and loads once.
PROGRAM = """
import sys, time
import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism
module, pin_file = sys.argv[1:3]
token = pkcs11.lib(module).get_token(token_label="bench")
session = token.open(rw=True, user_pin=open(pin_file).read())
key = session.generate_key(KeyType.AES, 256, store=True)
aad = bytes(40)
def data_key():
    plaintext = session.generate_random(256)
    nonce = session.generate_random(96)
    parameter = pkcs11.GCMParams(nonce=nonce, aad=aad, tag_bits=128)
    sealed = key.encrypt(plaintext, mechanism=Mechanism.AES_GCM, mechanism_param=parameter)
    if len(sys.argv) > 3:
        key.decrypt(sealed, mechanism=Mechanism.AES_GCM, mechanism_param=parameter)
best = 1e9
for _ in range(3):
    start = time.process_time()
    for _ in range(4000):
        data_key()
    best = min(best, (time.process_time() - start) / 4000)
print(best * 1e6)
"""


def raw_data_key_us(*, with_verification: bool) -> float:
    """Return CPU microseconds of making and wrapping a data key, perhaps unwrapping it too."""
    with tempfile.TemporaryDirectory(prefix="strongroom-bench-") as scratch:
        pin_file = Path(scratch) / "pin"
        pin_file.write_text("246813579", encoding="ascii")
        token = init_token(Path(scratch) / "token", "bench", "246813579")
        arguments = [str(token.module), str(pin_file)]
        run = subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments, *(["verify"] * with_verification)],
            env=os.environ | dict(token.environment),
            capture_output=True,
            text=True,
            check=True,
        )
        return float(run.stdout)
