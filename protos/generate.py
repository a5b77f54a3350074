"""Generate the Python stubs from the .proto files, or check that they are current.

    python protos/generate.py            write protos/python/strongroom/**/*_pb2*
    python protos/generate.py --check    exit 1 when what is committed differs

The compiler is grpcio-tools 1.76, so that users of the stubs need only grpcio 1.76 or
newer. `buf/validate/validate.proto` is generated into `strongroom/_third_party`: other
distributions ship a top-level package `buf`, and two owners of one file would collide.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).resolve().parent
OUTPUT = PROTOS / "python"
GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")
FOREIGN_IMPORT = re.compile(r"^from buf\.validate import", re.MULTILINE)
FOREIGN_PACKAGE = "strongroom/_third_party/buf/validate"


def run_protoc(include: Path, sources: list[Path], out: Path, *plugins: str) -> None:
    """Run grpcio-tools' protoc with `plugins` (such as ``python``) writing to `out`."""
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"-I{PROTOS}",
        f"-I{PROTOS / 'third_party'}",
        *(f"--{plugin}_out={out}" for plugin in plugins),
        *(str(source.relative_to(include)) for source in sources),
    ]
    # protoc finds the protoc-gen-* programs beside the interpreter that runs it.
    bin_dir = str(Path(sys.executable).parent)
    subprocess.run(command, check=True, env={"PATH": f"{bin_dir}:/usr/bin:/bin"})


def generate(out: Path) -> None:
    """Write every generated file below `out`, laid out as in protos/python."""
    ours = sorted((PROTOS / "strongroom").rglob("*.proto"))
    run_protoc(PROTOS, ours, out, "python", "grpc_python", "mypy", "mypy_grpc")
    with tempfile.TemporaryDirectory() as scratch:
        third_party = PROTOS / "third_party"
        foreign = sorted(third_party.rglob("*.proto"))
        run_protoc(third_party, foreign, Path(scratch), "python")
        target = out / FOREIGN_PACKAGE
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(Path(scratch).rglob("*_pb2.py")):
            (target / path.name).write_bytes(path.read_bytes())
    for path in sorted((out / "strongroom").rglob("*_pb2.py")):
        text = path.read_text(encoding="utf-8")
        text = FOREIGN_IMPORT.sub(f"from {FOREIGN_PACKAGE.replace('/', '.')} import", text)
        path.write_text(text, encoding="utf-8")
    for path in sorted((out / "strongroom").rglob("*_pb2_grpc.py")):
        services = path.with_name(path.name.replace("_pb2_grpc.py", ".proto"))
        source = PROTOS / services.relative_to(out)
        if "\nservice " not in source.read_text(encoding="utf-8"):
            path.unlink()
            path.with_suffix(".pyi").unlink(missing_ok=True)


def generated_files(root: Path) -> dict[str, bytes]:
    """Return every generated file below `root` by its relative path."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for pattern in GENERATED
        for path in root.rglob(pattern)
    }


def main() -> int:
    """Generate, or with --check compare; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        fresh = generated_files(Path(scratch))
    committed = generated_files(OUTPUT)
    stale = sorted(
        name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name)
    )
    if arguments.check:
        for name in stale:
            print(f"stale: protos/python/{name}; run `make protos`", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        path = OUTPUT / name
        if name in fresh:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(fresh[name])
        else:
            path.unlink()
        print(f"{'wrote' if name in fresh else 'removed'} protos/python/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
