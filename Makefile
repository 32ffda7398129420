# make run    the main job on the examples          make test   every test
# make run-services    a client and a server of examples/services, two processes; run-services-consul: with Consul between them;
#             run-services-rabbitmq: over RabbitMQ, without an HTTP port (RABBITMQ_URL, default amqp://guest:guest@localhost/)
# make lint   ruff, mypy, import test, docs         make docs   the documentation, docs/_build/index.html
# make bench  evbus against its peers               make clean  remove everything that make made
# make chaos  the reliability runs, in full
#
# PYTHON=python3.12 chooses another interpreter, with an environment of its own (.venv-3.12).
# ARGS="tests/evbus -x" is handed to pytest. WORKERS=0 runs the tests in one process, without xdist.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
ifeq ($(origin PYTHON),file)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
ARGS ?=
# More than the two cores that this is meant for: a test of brokers mostly waits.
WORKERS ?= 4
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadgroup
# The tests start the command and small programs hundreds of times, and most of such a start is compiling.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help run run-services run-services-consul run-services-rabbitmq test servers venv lint lint-ruff lint-format lint-types lint-imports lint-docs format docs bench chaos clean
help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

run: $(VENV)/.installed
	$(BIN)/evbus run examples/events.jsonl --profiles examples/profiles.yml

run-services: $(VENV)/.installed
	$(PIP) install --constraint requirements/test.txt --editable .[service]
	PYTHON=$(abspath $(BIN)/python) examples/services/run.sh

run-services-consul: $(VENV)/.installed
	[ -n "$${CONSUL_URL:-}" ] || .ci/consul
	$(PIP) install --constraint requirements/test.txt --editable .[service]
	PYTHON=$(abspath $(BIN)/python) CONSUL=$(abspath .servers/consul/root/usr/bin/consul) examples/services/run-consul.sh

run-services-rabbitmq: $(VENV)/.installed
	PYTHON=$(abspath $(BIN)/python) examples/services/run-rabbitmq.sh

# Without the brokers their tests are skipped, and that is a failure where CI is set. RabbitMQ 4.0 and 4.3 and Consul come from
# other Debians, to folders of their own: not every machine can have them, and those tests are skipped, with the reason, in CI too.
test: $(VENV)/.tests
	.ci/servers || [ -z "$${CI:-}" ]
	.ci/rabbitmq 4.0 || true
	.ci/rabbitmq 4.3 || true
	.ci/consul || true
	$(PYTEST) $(ARGS)

servers:
	.ci/servers
	.ci/rabbitmq 4.0 || true
	.ci/rabbitmq 4.3 || true
	.ci/consul || true

# What `make test` needs, without running it: .ci/run prepares several interpreters at a time.
venv: $(VENV)/.tests

# One target each, so that `make -k lint` tells everything at once.
lint: lint-ruff lint-format lint-types lint-imports lint-docs
lint-ruff: $(VENV)/.lint
	$(BIN)/ruff check .
lint-format: $(VENV)/.lint
	$(BIN)/ruff format --check .
lint-types: $(VENV)/.lint
	$(BIN)/mypy
lint-imports: $(VENV)/.lint
	$(PYTEST) tests/test_imports.py
lint-docs: $(VENV)/.lint
	$(BIN)/sphinx-build -q -W --keep-going -c . docs docs/_build

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W -c . docs docs/_build

bench: $(VENV)/.installed
	$(PIP) install --constraint requirements/bench.txt pydantic
	$(BIN)/python benchmarks/run.py $(ARGS)

# Every bar of docs/reliability.rst in full, about half an hour; ARGS="1 --kills 3" runs one, shorter.
chaos: $(VENV)/.tests
	.ci/servers
	.ci/rabbitmq 4.0 || true
	.ci/rabbitmq 4.3 || true
	.ci/consul || true
	$(BIN)/python -m tests.chaos $(or $(ARGS),all)

clean:
	rm -rf .venv .venv-* .bench build dist *.egg-info docs/_build examples/out
	git worktree prune 2>/dev/null || true # the builds that were below .bench
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: what is installed is not installed again until its list changes.

$(VENV)/.created:
	.ci/venv "$(PYTHON)" "$(VENV)"
	touch $@

$(VENV)/.installed: $(VENV)/.created requirements/base.txt setup.cfg pyproject.toml
	$(PIP) install -r requirements/base.txt --editable .
	touch $@

$(VENV)/.tests: $(VENV)/.installed requirements/test.txt
	.ci/compiler $(BIN)/python
	$(PIP) install -r requirements/test.txt
	touch $@

$(VENV)/.docs: $(VENV)/.installed requirements/docs.txt
	$(PIP) install -r requirements/docs.txt
	touch $@

$(VENV)/.lint: $(VENV)/.tests $(VENV)/.docs requirements/lint.txt
	$(PIP) install -r requirements/lint.txt
	touch $@
