#!/usr/bin/env bash
# Install Debian packages, as root: apt_install.sh PACKAGE...
# The package lists are fetched only where the install fails without: images come without
# any, and old lists name versions that are gone.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

install() { apt-get install -y -qq --no-install-recommends "$@"; }

{ install "$@" || { apt-get update -qq && install "$@"; }; } </dev/null >&2
