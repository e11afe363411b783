# Every target installs what it needs first. `make` alone explains itself.

# Containers often set it; every start would then compile a hundred modules anew, for seconds.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN := .venv/bin
RUNTIME := .venv/.runtime
EVERYTHING := .venv/.everything
PIP := $(BIN)/pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

# --- use it ---

.PHONY: run
run: install ## Start watcher and API, drop sample images, print each result; ONCE=1 ends after them
	@$(BIN)/pigeonhole demo $(if $(ONCE),--once)

.PHONY: up
up: install ## Start watcher and API under one supervisor
	@$(BIN)/pigeonhole up

.PHONY: install
install: $(RUNTIME) ## The runtime alone, into .venv (no torch)

.PHONY: install-dev
install-dev: $(EVERYTHING) ## Everything: training, tests, linters (torch is large)

# --- train ---

.PHONY: train
train: export PATH := $(abspath $(BIN)):$(PATH)
train: install-dev ## Train on DATA=my.zip (default: what params.yaml names); what passes the gate serves
	@pigeonhole train $(if $(DATA),--data '$(DATA)')

.PHONY: mlflow
mlflow: install-dev ## Show the training runs of this checkout at http://127.0.0.1:5000
	@echo "The runs: http://127.0.0.1:$(or $(PORT),5000)/#/experiments/1/runs?workflowType=machine_learning"
	@MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --backend-store-uri sqlite:///mlflow/mlflow.db \
		--artifacts-destination mlflow/artifacts --host 127.0.0.1 --port $(or $(PORT),5000) --workers 1

.PHONY: starter
starter: export PATH := $(abspath $(BIN)):$(PATH)
starter: install-dev ## Train on the demo data and make the result the starter model
	@dvc repro
	@dvc repro --single-item --force export
	@python -m pipeline.starter

.PHONY: accuracy
accuracy: install ## Accuracy and confusion matrix of the starter model on the 500 test images
	@$(BIN)/python -m pipeline.report

# --- work on it ---

.PHONY: check
check: install-dev lint types imports ## Format, lint, types, import order

.PHONY: lint
lint: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

.PHONY: types
types: install-dev
	$(BIN)/mypy

.PHONY: imports
imports: install-dev
	$(BIN)/lint-imports

.PHONY: format
format: install-dev ## Put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

.PHONY: test
test: install-dev ## The whole test suite
	$(BIN)/pytest

.PHONY: soak
soak: install-dev ## Every guarantee in its long form; SEEDS=1,2 and ONLY=G1 choose
	$(BIN)/pytest tests --soak --timeout 1800 -m guarantee $(if $(SEEDS),--seeds $(SEEDS)) $(if $(ONLY),-k "$(ONLY)")

.PHONY: monitoring
monitoring: install ## Write rules and dashboards from monitoring/*.py
	@$(BIN)/python -m monitoring

.PHONY: monitoring-test
monitoring-test: install-dev ## Metrics, rules, dashboards and containers alone, with a real Prometheus
	$(BIN)/pytest tests/monitoring

.PHONY: openapi
openapi: install ## Write openapi.json, the document that clients are built against
	@$(BIN)/python -m api > openapi.json

.PHONY: load
load: install-dev ## 64 clients upload for SECONDS=60 while the watcher works: nothing is lost, nobody is locked out
	PIGEONHOLE_LOAD_S=$(or $(SECONDS),60) $(BIN)/pytest -s tests/api/test_load.py

.PHONY: fuzz
fuzz: install-dev ## Thousands of made-up requests to a real server: CASES=200 each, SEED=1
	PIGEONHOLE_FUZZ_CASES=$(or $(CASES),200) PIGEONHOLE_FUZZ_SEED=$(or $(SEED),1) $(BIN)/pytest -s --timeout 3600 tests/api/test_fuzz.py
.PHONY: screenshots
screenshots: install-dev ## Pictures of the page into docs/screens, with Chromium
	@$(BIN)/python -m tests.api.screenshots

.PHONY: bench
bench: install-dev ## How fast is it here, beside its peers? QUICK=1: ours alone, three minutes; PARTS=a,d: some parts
	@$(BIN)/python -m benchmarks $(if $(QUICK),--quick) $(if $(PARTS),--parts $(PARTS))

.PHONY: bench-report
bench-report: install ## Write the tables of docs/performance.md from the last `make bench`
	@$(BIN)/python -m benchmarks.report

.PHONY: bench-training
bench-training: install-dev ## A textbook's training beside ours, on ZIP=my.zip (default: the demo data)
	@$(BIN)/python -m benchmarks.training $(or $(ZIP),data/fashion5.zip)

.PHONY: bench-fashion
bench-fashion: install-dev ## All of Fashion-MNIST (from Debian's package), beside its authors' table
	@$(BIN)/python -m benchmarks.fashion

.PHONY: lock
lock: install-dev ## Resolve the dependencies anew into requirements/
	$(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-annotate --allow-unsafe --extra train --extra dev --output-file requirements/all.txt pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-annotate --generate-hashes --constraint requirements/all.txt \
		--output-file requirements/runtime.txt pyproject.toml
	echo 'psycopg[binary]' | $(BIN)/pip-compile --quiet --strip-extras --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --no-annotate --generate-hashes \
		--constraint requirements/runtime.txt --output-file requirements/postgres.txt -

# --- deploy it ---

.PHONY: up-docker
up-docker: ## Start API, watcher, Prometheus and Grafana with Docker Compose
	@deploy/prepare.sh
	@docker compose up --detach --wait

.PHONY: try-docker
try-docker: ## Build the image, start the compose file, use it, delete it; PROFILES="postgres train mlflow" too
	@deploy/try-compose.sh $(PROFILES)

# --- how it gets there ---

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(RUNTIME): requirements/runtime.txt requirements/build.txt pyproject.toml | $(BIN)/python
	$(PIP) --no-compile --no-deps --require-hashes --requirement requirements/runtime.txt
	PIP_CONSTRAINT=requirements/build.txt $(PIP) --no-deps --editable .
	@touch $@

$(EVERYTHING): requirements/all.txt $(RUNTIME)
	$(PIP) --constraint requirements/all.txt --editable '.[train,dev]'
	@touch $@
