.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS := $(VENV)/.runs
STAMP := $(VENV)/.installed
SPARK := $(VENV)/.spark
# Three workers for each processor: most tests wait for a server. A module's tests share its servers, so they stay together.
PYTEST = $(BIN)/python -m pytest --numprocesses=$(WORKERS) --dist=loadscope --no-loadscope-reorder
WORKERS := $(shell expr 3 \* $$(nproc))
FAST := tests/config tests/stats tests/features tests/profiles tests/monitoring tests/metrics tests/test_*.py

help:  ## list these commands
	@sed -n 's/^\([a-z -]*\):.*##/\1\t/p' $(MAKEFILE_LIST)

# What `make up` needs, and nothing else: a first look should not wait for the tests' tools. Modules that are never
# imported are not compiled.
INSTALL = @$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

$(RUNS): requirements-demo.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(0 if sys.version_info >= (3, 11) else "model-exporter needs Python 3.11 or newer, and $(PYTHON) is " + v + ": make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null; \
	  else echo "Python's venv module is missing: install the package python3-venv" >&2; exit 1; fi
	@echo "Installing the Python packages into $(VENV)/: about 310 MB, a minute or two ..."
	@$(PYTHON) -m venv $(VENV)
	$(INSTALL) --require-hashes -r requirements-demo.lock
	$(INSTALL) --no-deps --no-build-isolation --editable .
	@touch $(RUNS)

$(STAMP): $(RUNS) requirements-dev.lock
	@echo "Installing what the tests need beside them: about 900 MB more ..."
	$(INSTALL) --require-hashes -r requirements-dev.lock
	@touch $(STAMP)

$(SPARK): $(STAMP) requirements-spark.lock
	@echo "Installing PySpark: about 480 MB more ..."
	$(INSTALL) --require-hashes -r requirements-spark.lock
	@touch $(SPARK)

install: $(STAMP)  ## install everything into .venv, from the hashed lock files

up: $(RUNS)  ## start exporter, demo, Prometheus, Alertmanager, and Grafana if it is installed; Ctrl-C stops them
	@tests/programs.sh prometheus prometheus-alertmanager
	@exec $(BIN)/python -m demo up

down:  ## stop what `make up` started, crashed or not
	@[ ! -e $(RUNS) ] || $(BIN)/python -m demo up --down

programs:  ## install the programs that the tests start, as root on Debian or Ubuntu; elsewhere, name them
	@tests/programs.sh

test: programs $(STAMP)  ## run all tests, against real servers
	$(PYTEST) tests

test-fast: $(STAMP)  ## run the tests that start no server, in under a minute
	$(PYTEST) $(FAST)

java:
	@"$${JAVA_HOME:+$$JAVA_HOME/bin/}java" -version >/dev/null 2>&1 || { echo "make test-spark needs Java 17 or 21, in JAVA_HOME or on the PATH. Debian: apt-get install openjdk-17-jre-headless" >&2; exit 1; }

test-spark: java $(SPARK)  ## run the tests of profiles in Spark, locally and on a cluster; `make test` leaves them out
	$(BIN)/python -m pytest tests/spark

test-peers: $(STAMP)  ## run the tests against Label Studio, model servers and S3, which it installs; `make test` leaves them out
	@benchmarks/peers/run.sh

lint: $(STAMP)  ## check style, types and size; tests check rules and configurations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/size.py

size: $(STAMP)  ## print lines of code, modules, alerts, rules, panels, flags and words beside their limits
	@$(BIN)/python .ci/size.py

bench: export OPENBLAS_NUM_THREADS := 1
bench: $(STAMP)  ## run the benchmarks, each with a peer or a floor in the same run
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

dashboards: $(STAMP)  ## generate the dashboards
	$(BIN)/python -m grafana

docs: $(STAMP)  ## write the tables of the reference: metrics, commands, routes, rules, limits
	$(BIN)/python .ci/reference.py

release-files: $(STAMP)  ## build what Grafana imports (dashboards, and rules that it evaluates itself) and the package of the chart
	$(BIN)/python -m grafana --output=build/release
	$(BIN)/python -c 'import helm_python; print(helm_python.package("deploy/helm", destination="build/release"))'

release: $(STAMP)  ## check and build the release of this commit, which has a tag; publish nothing
	@$(BIN)/python .ci/release.py

rules: $(STAMP)  ## write prometheus/rules from the templates, and the thresholds that the exporter and documents have
	$(BIN)/python prometheus/generate.py

COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
  --no-annotate $(UPGRADE)
EXTRAS = --extra server --extra kafka --extra proxy

lock:  ## write the lock files from pyproject.toml: for developers, the images, the demo, and Spark
	$(COMPILE) $(EXTRAS) --extra demo --extra sql --group dev pyproject.toml --output-file requirements-dev.lock
	$(COMPILE) $(EXTRAS) --group build --constraint requirements-dev.lock pyproject.toml --output-file requirements.lock
	$(COMPILE) $(EXTRAS) --extra tables --group build --constraint requirements-dev.lock pyproject.toml \
	  --output-file requirements-batch.lock
	$(COMPILE) --extra demo --group build --constraint requirements-dev.lock pyproject.toml --output-file requirements-demo.lock
	$(COMPILE) --group spark --constraint requirements-dev.lock --output-file requirements-spark.lock

upgrade: UPGRADE = --upgrade
upgrade: lock  ## the same with the newest version of each package; then run `make test`

# grafana-foundation-sdk is pinned: the newest version by number is of an older line. Renovate (renovate.json) watches images.
outdated: $(STAMP)  ## list the packages that have a newer version, and the images
	@$(BIN)/python -m pip --disable-pip-version-check list --outdated --exclude prometheus-model-exporter --exclude grafana_foundation_sdk --exclude pip
	@sed -n 's/^ *image: \(.*@sha256\)/\1/p; s/^FROM \(.*@sha256:[0-9a-f]*\)$$/\1/p' docker-compose.yml Dockerfile

.PHONY: rules docs help install up down programs test test-fast test-spark test-peers java lint size bench dashboards release-files release lock upgrade outdated
