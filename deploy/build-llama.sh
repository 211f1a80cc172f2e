#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds libllama and ggml as static libraries from a pinned, checksummed source and installs them
# below PREFIX. `make` calls it once per version.
#
# usage: build-llama.sh [--peers] PREFIX
#
# --peers: builds llama-server and llama-batched-bench of the same source with the same options of
# ggml instead, into PREFIX/bin. `make bench-engine` measures the agent beside them; nothing else
# needs them.
#
# The source is llama.cpp v0.5.0, taken from the git bundle inside an npm package, because the npm
# registry is reachable from more build hosts than a git forge is.
set -euo pipefail

readonly PACKAGE=node-llama-cpp@3.22.1
readonly TARBALL=node-llama-cpp-3.22.1.tgz
readonly SHA256=a0d9dd80eacd2ab1cfe71aee57ac8a806487fd70b3d2a38fbec637752d9e5c5f
readonly BUNDLE=package/llama/gitRelease.bundle

peers=
[ "${1:-}" != --peers ] || { peers=1; shift; }
prefix=${1:?usage: build-llama.sh [--peers] PREFIX}
work=$prefix.work
log=$work/build.log
mkdir -p "$work"

say() { printf '  %-8s %s\n' LLAMA "$1"; }
fail() {
  echo "build-llama.sh: $1" >&2
  [ ! -s "$log" ] || { echo "--- end of $log" >&2; tail -n 20 "$log" >&2; }
  exit 1
}

cd "$work"
# The build of the libraries may have left it.
[ -e "$TARBALL" ] || cp "${prefix%-peers}.work/$TARBALL" . 2>/dev/null || true
if ! echo "$SHA256  $TARBALL" | sha256sum --check --status 2>/dev/null; then
  say "fetching $PACKAGE (npm registry, 35 MB)"
  npm pack --silent "$PACKAGE" >"$log" 2>&1 || fail "npm pack $PACKAGE failed (set WEIR_LLAMA_PREFIX to use a libllama you have)"
  echo "$SHA256  $TARBALL" | sha256sum --check --status || fail "$TARBALL is not the file this build was written for (SHA-256 differs)"
fi
if [ ! -e source/CMakeLists.txt ]; then
  rm -rf source
  tar -xzf "$TARBALL" "$BUNDLE"
  git clone --quiet "$BUNDLE" source >"$log" 2>&1 || fail "cloning the bundle failed"
fi

# The same for both: the bench compares what is around the kernels, not the kernels.
options=(-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF
  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF)
if [ -n "$peers" ]; then
  # The server's web page would be fetched; nobody looks at it.
  options+=(-DLLAMA_BUILD_COMMON=ON -DLLAMA_BUILD_TOOLS=ON -DLLAMA_BUILD_SERVER=ON
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF)
  what="llama-server and llama-batched-bench, once (about 10 minutes on 2 cores)"
  targets=(--target llama-server llama-batched-bench)
else
  options+=(-DCMAKE_INSTALL_PREFIX="$prefix" -DCMAKE_INSTALL_LIBDIR=lib -DLLAMA_BUILD_COMMON=OFF
    -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_SERVER=OFF)
  what="libllama, once (about 2.5 minutes on 2 cores)"
  targets=()
fi

say "configuring"
cmake -S source -B build "${options[@]}" >"$log" 2>&1 || fail "cmake failed"

say "building $what"
# CMake's Makefiles print "[ 42%]"; one line of ours per tenth is progress enough.
cmake --build build --parallel "$(nproc)" "${targets[@]}" 2>&1 | tee -a "$log" |
  awk 'match($0, /^\[ *[0-9]+%\]/) { p = int(substr($0, 2, RLENGTH - 3) / 10); if (p > last) { printf "  %-8s %d%%\n", "LLAMA", p * 10; fflush(); last = p } }' ||
  fail "the build failed"
if [ -n "$peers" ]; then
  install -D -m 755 -t "$prefix/bin" build/bin/llama-server build/bin/llama-batched-bench ||
    fail "the installation failed"
else
  cmake --install build >>"$log" 2>&1 || fail "the installation failed"
fi
rm -rf build source package
touch "$prefix/.built"
say "installed $prefix"
