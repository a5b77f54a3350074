"""Rules of the house that no other tool checks: locks, modules, pages, the one door."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from deploy import config_reference

ROOT = Path(__file__).resolve().parents[2]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))
SOURCES = ("protos/python", "client/python", "server", "tests", "deploy", "protos/generate.py")
MAX_MODULE_LINES = 500
TARGETS = "demo up test check bench protos format lint type setup soak bench-peers lock clean help"


def pins(lock: Path) -> dict[str, str]:
    """Return the packages of a lock and their versions."""
    text = lock.read_text(encoding="utf-8")
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", text, re.MULTILINE))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_have_hashes_and_no_hosts(lock: Path) -> None:
    """Every requirement is exact and has hashes; where it comes from is the reader's affair."""
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^--(?!hash)", text, re.MULTILINE)
    entries = re.split(r"\n(?! )", text.strip())
    for entry in entries:
        assert re.match(r"[a-z0-9][a-z0-9._-]*==\S+", entry), entry
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize("name", ["server.txt", "build.txt"])
def test_the_image_has_what_was_tested(name: str) -> None:
    """What goes into the image is pinned as in the lock that the tests run with."""
    tested = pins(ROOT / "requirements" / "dev.txt")
    assert pins(ROOT / "requirements" / name).items() <= tested.items()


def test_every_dependency_has_a_reason() -> None:
    """A run-time dependency is named in ADR 9."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    names = {
        re.split(r"[\[<>=;! ]", requirement)[0]
        for requirement in (*project["dependencies"], *extras["server"], *extras["auditlog"])
    }
    page = (ROOT / "docs" / "adr" / "0009-dependencies.md").read_text(encoding="utf-8")
    assert {name for name in names if name not in page} == set()


def test_no_module_is_a_novel() -> None:
    """No module of ours has more than 500 lines."""
    modules = [
        path
        for source in SOURCES
        for path in ([ROOT / source] if source.endswith(".py") else (ROOT / source).rglob("*.py"))
        if "_pb2" not in path.name
    ]
    assert len(modules) > 50
    lengths = {str(path.relative_to(ROOT)): len(path.read_bytes().splitlines()) for path in modules}
    assert {name: n for name, n in lengths.items() if n > MAX_MODULE_LINES} == {}


def test_the_settings_are_documented_as_they_are() -> None:
    """The tables in docs/operations.md are those of the configuration's types."""
    page = config_reference.PAGE.read_text(encoding="utf-8")
    assert config_reference.current(page) == page, "run `make docs`"


def test_every_setting_has_a_description() -> None:
    """No row of those tables is empty."""
    for model in config_reference.models().values():
        assert "None |" not in config_reference.section_tables(model)


def test_links_between_pages_lead_somewhere() -> None:
    """A relative link names a file that is there."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 20
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8"))
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_decisions_are_numbered_and_complete() -> None:
    """ADRs count from 1 without gaps, are listed, and have all four parts."""
    folder = ROOT / "docs" / "adr"
    pages = sorted(folder.glob("[0-9]*.md"))
    listing = (folder / "README.md").read_text(encoding="utf-8")
    assert [int(page.name[:4]) for page in pages] == list(range(1, len(pages) + 1))
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert text.startswith(f"# {int(page.name[:4])}. ")
        assert f"({page.name})" in listing
        for part in ("Context", "Decision", "Consequences"):
            assert f"\n## {part}\n" in text


@pytest.mark.parametrize("target", TARGETS.split())
def test_the_one_door_has_every_target(target: str) -> None:
    """make knows the target and says in its help what it does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:.*## \S", makefile, re.MULTILINE)


def test_continuous_integration_uses_the_same_door() -> None:
    """.ci/run is make check, and can be executed."""
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "exec make check" in script.read_text(encoding="utf-8")


def test_make_check_runs_the_tests_last() -> None:
    """The summary of the tests ends the output."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    check = re.search(r"^check: (.*?) ##", makefile, re.MULTILINE)
    assert check is not None
    assert check[1].split()[-1] == "test"
    assert ".NOTPARALLEL:" in makefile
