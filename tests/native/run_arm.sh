#!/bin/sh
# Compile the engine for 64-bit ARM and run its test program under emulation: checks the NEON kernels on any machine.
# Needs (Debian): g++-aarch64-linux-gnu qemu-user
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build="${1:-$root/build/native-arm}"
cmake -S "$root/tests/native" -B "$build" -DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 \
    -DCMAKE_CXX_COMPILER=aarch64-linux-gnu-g++ -DCMAKE_BUILD_TYPE=Release > /dev/null
cmake --build "$build"
qemu-aarch64 -L /usr/aarch64-linux-gnu "$build/test_engine" "${2:-10}"
