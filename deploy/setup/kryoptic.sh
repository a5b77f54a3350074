#!/usr/bin/env bash
# Build kryoptic, the third module of the HSM tests, into .cache/kryoptic: `make kryoptic`.
# Needs cargo, a C compiler, the headers of OpenSSL 3 and SQLite, and libclang; without the
# last one, Debian's package is unpacked below .cache. Takes some minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/../.."

version=1.5.4
crate_sha256=21b64b7679ce821f19a7a48b7e40146f26fbb9daa64ee2acb6376788a26d7ae8
target=$PWD/.cache/kryoptic
module=$target/libkryoptic_pkcs11.so

say() { printf 'kryoptic: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

if [ -f "$module" ] && [ "$(cat "$target/version" 2>/dev/null)" = "$version" ]; then
    say "ready: $module"
    exit 0
fi
command -v cargo >/dev/null || die "cargo is missing; install Rust 1.85 or newer (the crate's edition is 2024)"
command -v cc >/dev/null || die "a C compiler is missing; install gcc"
for library in openssl sqlite3; do
    pkg-config --exists "$library" || die "the headers of $library are missing; install libssl-dev, libsqlite3-dev and pkg-config"
done

build=$target/build
mkdir -p "$build/crate"

# ossl-sys makes its bindings with bindgen, which loads libclang.
has_libclang() { ldconfig -p 2>/dev/null | grep -q 'libclang[-0-9]*\.so' || [ -n "${LIBCLANG_PATH:-}" ]; }
if ! has_libclang; then
    if ! compgen -G "$build/clang/usr/lib/llvm-*/lib/libclang*.so*" >/dev/null; then
        package=$(apt-cache depends libclang1 2>/dev/null | awk '/Depends: libclang1-[0-9]+$/ { print $2; exit }')
        [ -n "$package" ] || die "libclang is missing; install the package libclang1"
        say "unpacking $package"
        mkdir -p "$build/clang"
        bash deploy/setup/unpack.sh "$build/clang" "$package" || die "libclang is missing; install the package $package"
    fi
    LIBCLANG_PATH=$(dirname "$(compgen -G "$build/clang/usr/lib/llvm-*/lib/libclang*.so*" | head -n 1)")
    export LIBCLANG_PATH
    # clang's own headers are in another package; the compiler's serve as well.
    BINDGEN_EXTRA_CLANG_ARGS="-I$(cc -print-file-name=include)"
    export BINDGEN_EXTRA_CLANG_ARGS
fi

if [ ! -d "$build/crate/kryoptic-$version" ]; then
    say "fetching kryoptic $version"
    archive=$build/kryoptic-$version.crate
    curl --fail --silent --show-error --location --output "$archive" \
        "https://static.crates.io/crates/kryoptic/kryoptic-$version.crate"
    printf '%s  %s\n' "$crate_sha256" "$archive" | sha256sum --check --quiet ||
        die "the archive is not the one that was looked at"
    tar -xzf "$archive" -C "$build/crate"
fi

# `standard` has Ed25519, which needs OpenSSL 3.2; `ossl/dynamic` links the system's OpenSSL
# and is what tells the crate ossl its version.
features=minimal
if pkg-config --atleast-version=3.2 openssl; then features=standard; fi
say "building with $features (minutes)"
(
    cd "$build/crate/kryoptic-$version"
    CARGO_TARGET_DIR=$build/target cargo build --quiet --release --locked --jobs 1 \
        --lib --no-default-features --features "$features,ossl/dynamic"
) || die "cargo cannot build it; its messages are above"
cp "$build/target/release/libkryoptic_pkcs11.so" "$module.new"
mv "$module.new" "$module"
printf '%s\n' "$version" >"$target/version"
rm -rf "$build/target"
say "ready: $module"
