#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Installs the Debian packages that building and testing Weir needs. Says nothing and needs no
# network when all of them are there; otherwise says what it installs.
#
# usage: install-deps.sh [--bench]
#   --bench   also what only the benchmarks need (nginx, nft, go, wrk)
set -euo pipefail

packages=(
  clang bpftool libbpf-dev libelf-dev zlib1g-dev                 # kernel side
  g++ make pkg-config protobuf-compiler                          # compilers
  libprotobuf-dev libspdlog-dev libyaml-cpp-dev libcli11-dev
  libboost1.81-dev libboost-json1.81-dev
  libgtest-dev libgmock-dev                                      # tests
  python3 iproute2 curl openssl                                  # end-to-end tests and the demo
)
bench_packages=(nginx-light nftables golang-go wrk)

for argument in "$@"; do
  case $argument in
    --bench) packages+=("${bench_packages[@]}") ;;
    *) echo "install-deps.sh: unknown option $argument (usage: install-deps.sh [--bench])" >&2; exit 2 ;;
  esac
done

# libllama is built from source unless the machine has one.
if [ -z "${WEIR_LLAMA_PREFIX:-}" ] && ! pkg-config --exists llama 2>/dev/null; then
  packages+=(cmake git)
  command -v npm >/dev/null || packages+=(npm)
fi

missing=()
for package in "${packages[@]}"; do
  status=$(dpkg-query --show --showformat='${Status}' "$package" 2>/dev/null || true)
  [ "$status" = "install ok installed" ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "install-deps.sh: these packages are missing; install them as root: apt-get install ${missing[*]}" >&2
  exit 1
fi
echo "  DEPS     installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install --yes --no-install-recommends "${missing[@]}" >"$log" 2>&1; }
# The package lists may be old or empty on a new machine: refresh them only when needed.
install || { apt-get update >"$log" 2>&1 && install; } || {
  echo "install-deps.sh: apt-get failed:" >&2
  tail -n 20 "$log" >&2
  exit 1
}
