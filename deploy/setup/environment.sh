# Sourced by the Makefile, in the root of the work tree: where SoftHSM was unpacked to, if it was.
if [ -d .cache/softhsm ]; then
    export STRONGROOM_SOFTHSM_PREFIX="${STRONGROOM_SOFTHSM_PREFIX:-$PWD/.cache/softhsm}"
fi
