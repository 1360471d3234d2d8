#!/usr/bin/env bash
# Find the programs that the tests start. As root on Debian or Ubuntu, install what is missing; elsewhere say how.
set -euo pipefail
PATH=$PATH:/usr/sbin:$(printf '%s:' /usr/lib/postgresql/*/bin)

# Debian's package, then the names of its program.
packages=(
  "prometheus promtool"
  "prometheus-alertmanager amtool"
  "prometheus-pushgateway prometheus-pushgateway pushgateway"
  "postgresql initdb"
  "chromium-headless-shell chromium-headless-shell chromium chromium-browser"
  "docker-compose docker-compose"
  "faketime faketime"
  "systemd systemd-analyze"
)

missing=()
for entry in "${packages[@]}"; do
  read -r package programs <<<"$entry"
  for program in $programs; do
    command -v "$program" >/dev/null && continue 2
  done
  missing+=("$package")
done
((${#missing[@]})) || exit 0

if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  {
    echo "The tests start real servers and programs. These are missing: ${missing[*]}"
    echo "On Debian or Ubuntu, run this once: sudo apt-get install --no-install-recommends ${missing[*]}"
    echo "Elsewhere, install programs of these names and put them on the PATH: $(printf '%s\n' "${packages[@]}" | cut -d' ' -f2 | xargs)"
  } >&2
  exit 1
fi

echo "Installing the programs that the tests start: ${missing[*]} ..."
# The tests start servers of their own. The packages' services must not start.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod +x "$policy"
  trap 'rm -f "$policy"' EXIT
fi
apt-get update -qq
# Ubuntu and older releases of Debian have no headless shell.
if ! apt-cache show chromium-headless-shell >/dev/null 2>&1; then
  missing=("${missing[@]/chromium-headless-shell/chromium}")
fi
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
