"""The whole story in one minute: ``make demo``.

Two regions with a SoftHSM token each, two servers and the audit log as processes of their
own, mutual TLS, the real command line. Every step checks what it got and the demo stops
at the first surprise with a non-zero exit code.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from strongroom_client import GeneratedDataKey, KmsClient, StrongroomError, load_options
from strongroom_server.cli.dev_fleet import Fleet
from strongroom_server.cli.dev_layout import Layout
from strongroom_server.config import load_config
from strongroom_server.hsm.ck_mechanisms import CKO_SECRET_KEY
from strongroom_server.hsm.token import TokenSession

ROOT = Path(__file__).resolve().parent.parent
STRONGROOM = Path(sys.executable).with_name("strongroom")
EU, US = "regions/eu-1/aliases/orders/invoices", "regions/us-1/aliases/orders/invoices"
BOTH = ("--key", EU, "--key", US)
CONTEXT = ("--context", "tenant=acme", "--context", "purpose=invoices")
DENIED, NOT_FOUND, STATE, UNVERIFIABLE = 3, 4, 5, 6  # docs/cli.md, Exit codes
SHOWN_LINES = 8
SHOWN_CHARACTERS = 110


class DemoError(Exception):
    """Something was not as the story tells it."""


def require(holds: bool, what: str) -> None:  # noqa: FBT001 - reads like a sentence
    """Stop the demo when a statement does not hold."""
    if not holds:
        raise DemoError(what)
    print(f"    ✓ {what}")


class Demo:
    """The deployment in a fresh directory, and who is speaking to it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.layout = Layout(directory / "dev")
        self.started = time.monotonic()
        self.chapters = 0

    def chapter(self, title: str) -> None:
        """Print the heading of the next part."""
        self.chapters += 1
        print(f"\n{self.chapters:2}. {title}  [{time.monotonic() - self.started:.0f} s]")

    def run(
        self, *arguments: str, who: str = "orders", code: int = 0, lines: int = SHOWN_LINES
    ) -> str:
        """Run the command line as `who`, show command and output, check the exit code."""
        config = (
            self.layout.client_config if who == "operator" else self.layout.client_config_of(who)
        )
        print(f"    {who}$ strongroom {shlex.join(arguments)}")
        done = subprocess.run(
            [str(STRONGROOM), *arguments],
            cwd=self.directory,
            env={**os.environ, "STRONGROOM_CONFIG": str(config), "COLUMNS": "100"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        shown = (done.stdout + done.stderr).splitlines()
        for line in shown[:lines]:
            print(f"      {shortened(line)}")
        if len(shown) > lines:
            print(f"      ... {len(shown) - lines} more lines")
        if done.returncode != code:
            print(done.stdout + done.stderr, file=sys.stderr)
            raise DemoError(
                f"strongroom {arguments[0]} ended with {done.returncode}, expected {code}"
            )
        return done.stdout

    def path(self, name: str) -> Path:
        """Return a path in the directory where the commands run."""
        return self.directory / name


def shortened(line: str) -> str:
    """Return at most as many characters of a line as a terminal shows."""
    return line if len(line) <= SHOWN_CHARACTERS else f"{line[: SHOWN_CHARACTERS - 3]}..."


def digest(path: Path, start: int = 0) -> str:
    """Return the SHA-256 of a file from `start` on, in hex."""
    return hashlib.sha256(path.read_bytes()[start:]).hexdigest()


def keys_and_files(demo: Demo) -> None:
    """Make keys in both regions, encrypt for both, decrypt."""
    demo.chapter("orders makes a key in each region; the keys are born in the HSM and stay there")
    for region in ("eu-1", "us-1"):
        demo.run(
            *("keys", "create", "--region", region),
            *("--alias", "orders/invoices", "--description", "invoices of the order service"),
        )
    demo.run("keys", "list", "--region", "eu-1")
    show_hsm(demo)

    demo.chapter("orders encrypts three files, each for both regions: one command, one data key")
    demo.path("letter.txt").write_text("Dear Alice,\nyour invoice of 4 March is attached.\n" * 20)
    demo.path("scan.bin").write_bytes(secrets.token_bytes(5 * 2**20))
    demo.path("empty").touch()
    names = ("letter.txt", "scan.bin", "empty")
    demo.run("encrypt", *names, *BOTH, *CONTEXT)
    for name in names:
        plain, envelope = (demo.path(path).stat().st_size for path in (name, f"{name}.srm"))
        require(envelope > plain, f"{name}, {plain:,} bytes, is {name}.srm, {envelope:,} bytes")
    require(
        b"Dear Alice" not in demo.path("letter.txt.srm").read_bytes(),
        "nothing of the letter can be read in its envelope",
    )

    demo.chapter("and decrypts them, through the other region")
    demo.run(
        *("decrypt", *(f"{name}.srm" for name in names), *CONTEXT),
        *("--region", "us-1", "--output-dir", "out"),
    )
    for name in names:
        same = digest(demo.path(name)) == digest(demo.path(f"out/{name}"))
        require(same, f"{name} came back byte for byte")


def show_hsm(demo: Demo) -> None:
    """Ask the HSM itself what it holds, with the PIN of eu-1."""
    demo.chapter("what the HSM of eu-1 says about the key, asked directly through PKCS#11")
    shard = load_config(demo.layout.server_config("eu-1")).shards[0]
    os.environ.update(shard.module_environment)
    session = TokenSession.open(
        str(shard.module), shard.token_label, shard.pin_file.read_text(encoding="ascii").strip()
    )
    names = ("SENSITIVE", "EXTRACTABLE", "ALWAYS_SENSITIVE", "NEVER_EXTRACTABLE", "PRIVATE")
    keys = session.find({"CLASS": CKO_SECRET_KEY})
    for key in keys:
        shown = session.attributes(key, names)
        print("      " + "  ".join(f"{name}={shown[name]!r}" for name in names))
        require(
            shown["SENSITIVE"] is True and shown["EXTRACTABLE"] is False,
            "its value cannot be read by anybody",
        )
    require(len(keys) == 1, "the token holds one key")
    session.close()
    demo.run(
        *("hsm", "doctor", "--config", str(demo.layout.server_config("eu-1")), "--quick"),
        lines=8,
    )


def refusals(demo: Demo) -> None:
    """Show what is refused: the wrong caller, the wrong context, a flipped bit."""
    demo.chapter("payments has no permission: it cannot even see whether the key is there")
    demo.run(
        *("decrypt", "letter.txt.srm", *CONTEXT, "--out", "stolen.txt"),
        who="payments",
        code=NOT_FOUND,
    )
    require(not demo.path("stolen.txt").exists(), "no output file")

    demo.chapter("one flipped bit, or another context: refused, and nothing is left in place")
    envelope = bytearray(demo.path("scan.bin.srm").read_bytes())
    envelope[len(envelope) // 2] ^= 0x01
    demo.path("flipped.srm").write_bytes(envelope)
    demo.run("decrypt", "flipped.srm", *CONTEXT, code=UNVERIFIABLE)
    require(not demo.path("flipped").exists(), "no output file, though half of it was good")
    demo.run(
        *("decrypt", "letter.txt.srm", "--context", "tenant=evil", "--out", "evil.txt"),
        code=UNVERIFIABLE,
    )
    require(not demo.path("evil.txt").exists(), "no output file")


def region_down(demo: Demo, fleet: Fleet) -> None:
    """Stop a region; the envelopes open through the other one."""
    demo.chapter("region eu-1 goes down; the same envelope opens through us-1")
    code = fleet.stop("server-eu-1")
    require(code == 0, "the server of eu-1 drained and ended with 0")
    demo.run("decrypt", "letter.txt.srm", *CONTEXT, "--out", "while-down.txt")
    require(
        digest(demo.path("while-down.txt")) == digest(demo.path("letter.txt")),
        "the letter came back through us-1 alone",
    )
    fleet.start("server-eu-1")
    fleet.wait_ready()
    require(True, "eu-1 is back")  # noqa: FBT003 - wait_ready raises otherwise


def life_of_a_key(demo: Demo) -> None:
    """Rotate, re-key without touching the body, disable and enable."""
    demo.chapter("the key in eu-1 is rotated; old ciphertexts go on decrypting")
    demo.run("keys", "rotate", EU, lines=20)
    demo.run("keys", "versions", EU)
    demo.run("decrypt", "letter.txt.srm", *CONTEXT, "--out", "after-rotation.txt")

    demo.chapter("re-keying wraps the data key anew; the 5 MiB body is not touched")
    before = demo.path("scan.bin.srm").read_bytes()
    demo.run("rekey", "scan.bin.srm", *BOTH)
    after = demo.path("scan.bin.srm").read_bytes()
    body = 5 * 2**20  # the ciphertext of the body is longer than that, the header much shorter
    require(before != after, "the header has changed")
    require(
        hashlib.sha256(before[-body:]).digest() == hashlib.sha256(after[-body:]).digest(),
        f"the body has not: SHA-256 {hashlib.sha256(after[-body:]).hexdigest()[:16]}... twice",
    )
    demo.run("decrypt", "scan.bin.srm", *CONTEXT, "--out", "after-rekey.bin")
    require(digest(demo.path("after-rekey.bin")) == digest(demo.path("scan.bin")), "same bytes")

    demo.chapter("a disabled key refuses every use, until it is enabled again")
    demo.run("keys", "disable", EU, lines=2)
    demo.run("encrypt", "letter.txt", "--key", EU, "--out", "refused.srm", code=STATE)
    require(not demo.path("refused.srm").exists(), "no output file")
    demo.run("keys", "enable", EU, lines=2)
    demo.run("encrypt", "letter.txt", "--key", EU, "--out", "allowed.srm")


def audit(demo: Demo) -> None:
    """Read the log, prove a receipt, verify everything offline."""
    demo.chapter("every use is in the audit log")
    demo.run("audit", "tail", "-n", "6", who="operator")

    demo.chapter("a receipt is proved against the signed log, then everything is verified offline")
    answer = json.loads(demo.run("keys", "show", EU, "--output", "json", lines=2))
    receipt = str(answer["receipt"])
    demo.run("audit", "prove", receipt, "--out", "key.proof", who="operator")
    verify(demo, "--receipt", receipt)


def verify(demo: Demo, *arguments: str) -> None:
    """Verify the log's files with nothing but the verifier key."""
    log, vkey = demo.layout.audit_log / "log", demo.layout.audit_log / "log.vkey"
    demo.run(
        *("audit", "verify", "--log", os.path.relpath(log, demo.directory)),
        *("--vkey", os.path.relpath(vkey, demo.directory), *arguments),
        who="operator",
    )


def crash(demo: Demo, fleet: Fleet) -> None:
    """Kill a server under load; every answered call must be in the log."""
    demo.chapter("kill -9 of a server under load: every answered call is in the log, once")
    options = load_options(demo.layout.client_config_of("orders"))
    answers: list[GeneratedDataKey] = []
    refused = threading.Event()

    def burst() -> None:
        with KmsClient(options) as client:
            try:
                while True:
                    made = client.generate_data_key(EU, encryption_context={"burst": "demo"})
                    made.plaintext_data_key.wipe()
                    answers.append(made)
            except StrongroomError:
                refused.set()

    threads = [threading.Thread(target=burst) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(1.0)
    fleet.kill("server-eu-1")
    for thread in threads:
        thread.join(30)
    require(refused.is_set(), f"killed after {len(answers)} answered calls")
    began = time.monotonic()
    fleet.start("server-eu-1")
    fleet.wait_ready()
    require(True, f"eu-1 is back after {time.monotonic() - began:.1f} s")  # noqa: FBT003 - as above
    receipts = [str(receipt) for answer in answers for receipt in answer.receipts]
    require(len(set(receipts)) == len(answers), "each answer has a receipt of its own")
    demo.path("receipts.txt").write_text("".join(f"{receipt}\n" for receipt in receipts))
    last = max(receipts, key=lambda text: int(text.split(":")[3]))
    demo.run("audit", "prove", last, "--wait", "20", "--out", "last.proof", who="operator")
    verify(demo, "--receipts", "receipts.txt")
    demo.run("decrypt", "letter.txt.srm", *CONTEXT, "--out", "after-crash.txt")


def tell(demo: Demo) -> None:
    """Tell the story from the first file to the last."""
    demo.chapter("a deployment: CA, certificates, a SoftHSM token for each region")
    demo.run("dev", "init", "--dir", "dev", "--port-base", "0", who="operator")
    fleet = Fleet(demo.layout)
    try:
        fleet.start_all()
        fleet.wait_ready()
        for member in fleet.members.values():
            print(f"      {member.name} runs as process {member.process_id}")
        keys_and_files(demo)
        refusals(demo)
        region_down(demo, fleet)
        life_of_a_key(demo)
        audit(demo)
        crash(demo, fleet)
    finally:
        demo.chapter("everything stops")
        codes = fleet.stop_all()
    require(all(code == 0 for code in codes.values()), f"all ended with 0: {', '.join(codes)}")
    verify(demo)


def main() -> int:
    """Run the demo; return its exit code."""
    cache = ROOT / ".cache" / "demo"
    cache.mkdir(parents=True, exist_ok=True)
    directory = Path(tempfile.mkdtemp(prefix="run-", dir=cache))
    unpacked = ROOT / ".cache" / "softhsm"
    if unpacked.is_dir():
        # What `make setup` unpacked: the commands run elsewhere and would not see it.
        os.environ.setdefault("STRONGROOM_SOFTHSM_PREFIX", str(unpacked))
    demo = Demo(directory)
    try:
        tell(demo)
    except (DemoError, StrongroomError) as exc:
        print(f"\nthe demo failed: {exc}\nits files are in {directory}", file=sys.stderr)
        return 1
    shutil.rmtree(directory)
    print(f"\nThat was Strongroom, in {time.monotonic() - demo.started:.0f} s.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
