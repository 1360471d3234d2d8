#!/usr/bin/env bash
# Install programs of other projects, each in an environment of its own below .venv/.peers (2.5 GB), and run the tests that
# need them. What cannot be installed is named, and its tests are skipped.
set -uo pipefail
cd "$(dirname "$0")/../.."
export PEERS=${PEERS:-$PWD/.venv/.peers}

while read -r name packages; do
  [ -e "$PEERS/$name/.installed" ] && continue
  echo "Installing $packages ..."
  # shellcheck disable=SC2086
  if .venv/bin/python -m venv "$PEERS/$name" \
    && timeout 900 "$PEERS/$name/bin/pip" install --quiet --disable-pip-version-check $packages; then
    touch "$PEERS/$name/.installed"
  else
    echo "$name could not be installed" >&2
  fi
done <<'PEERS'
label-studio label-studio==1.23.2
mlserver mlserver==1.7.1
kserve kserve==0.21.0
mlflow mlflow==3.17.2
litserve litserve==0.2.19
moto moto[s3,server]==5.2.5
PEERS
if [ ! -x "${KAFKA_HOME:-}/bin/kafka-server-start.sh" ]; then
  echo "Set KAFKA_HOME to the folder of a Kafka distribution (4.0 or later, which needs Java 17) to run its tests." >&2
fi
exec .venv/bin/python -m pytest -rs benchmarks/peers "$@"
