#!/usr/bin/env bash
# Find the programs that the tests start, or those of the Debian packages that are named as arguments. As root on Debian or
# Ubuntu, install what is missing; elsewhere say how. Tests of a program that the distribution does not package are skipped.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)

# Debian's package, then the names of its program, or the files of its library.
packages=(
  "prometheus prometheus"
  "prometheus-alertmanager prometheus-alertmanager alertmanager"
  "prometheus-pushgateway prometheus-pushgateway pushgateway"
  "postgresql initdb"
  "chromium-headless-shell chromium-headless-shell chromium chromium-browser"
  "libatomic1 /usr/lib/*/libatomic.so.1 /usr/lib64/libatomic.so.1 /usr/lib/libatomic.so.1"
  "curl curl"
  "jq jq"
  "openssl openssl"
  "docker-compose docker-compose"
  "faketime faketime"
  "systemd systemd-analyze"
)

missing=()
for entry in "${packages[@]}"; do
  read -r package programs <<<"$entry"
  if (($#)) && [[ " $* " != *" $package "* ]]; then continue; fi
  for program in $programs; do
    if command -v "$program" >/dev/null || [ -e "$program" ]; then continue 2; fi
  done
  missing+=("$package")
done
((${#missing[@]})) || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  {
    echo "These programs are missing on the PATH: ${missing[*]}"
    echo "On Debian or Ubuntu, run this once: sudo apt-get install --no-install-recommends ${missing[*]}"
    echo "Elsewhere, install this system's packages of them, or the archives of their projects (https://prometheus.io/download/)."
  } >&2
  exit 1
fi

apt-get update -qq
found=()
for package in "${missing[@]}"; do
  # Ubuntu and older releases of Debian have no headless shell.
  for name in "$package" "${package%-headless-shell}"; do
    if apt-cache show "$name" >/dev/null 2>&1; then
      found+=("$name")
      continue 2
    fi
  done
  echo "This distribution does not package $package: its tests are skipped." >&2
done
((${#found[@]})) || exit 0

echo "Installing ${found[*]} with apt-get ..."
# The tests and `make up` start servers of their own. The packages' services must not start, now or after a reboot.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${found[@]}" >/dev/null
for package in "${found[@]}"; do
  deb-systemd-helper disable "$package.service" >/dev/null 2>&1 || true
  update-rc.d "$package" disable >/dev/null 2>&1 || true
done
