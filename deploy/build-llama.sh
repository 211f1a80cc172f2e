#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Builds libllama and ggml as static libraries from a pinned, checksummed source and installs them
# below PREFIX. `make` calls it once per version.
#
# usage: build-llama.sh PREFIX
#
# The source is llama.cpp v0.5.0, taken from the git bundle inside an npm package, because the npm
# registry is reachable from more build hosts than a git forge is.
set -euo pipefail

readonly PACKAGE=node-llama-cpp@3.22.1
readonly TARBALL=node-llama-cpp-3.22.1.tgz
readonly SHA256=a0d9dd80eacd2ab1cfe71aee57ac8a806487fd70b3d2a38fbec637752d9e5c5f
readonly BUNDLE=package/llama/gitRelease.bundle

prefix=${1:?usage: build-llama.sh PREFIX}
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

say "configuring"
cmake -S source -B build -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$prefix" \
  -DCMAKE_INSTALL_LIBDIR=lib -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF \
  -DLLAMA_BUILD_COMMON=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_TOOLS=OFF \
  -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF >"$log" 2>&1 || fail "cmake failed"

say "building libllama, once (about 2.5 minutes on 2 cores)"
# CMake's Makefiles print "[ 42%]"; one line of ours per tenth is progress enough.
cmake --build build --parallel "$(nproc)" 2>&1 | tee -a "$log" |
  awk 'match($0, /^\[ *[0-9]+%\]/) { p = int(substr($0, 2, RLENGTH - 3) / 10); if (p > last) { printf "  %-8s %d%%\n", "LLAMA", p * 10; fflush(); last = p } }' ||
  fail "the build failed"
cmake --install build >>"$log" 2>&1 || fail "the installation failed"
rm -rf build source package
touch "$prefix/.built"
say "installed $prefix"
