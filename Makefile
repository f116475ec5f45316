# metalr: bare `make` prints what there is. Every target sets up .venv first where it is missing.

RECIPE ?= digits
SET ?=
DATA ?=
STRATEGY ?=
BENCH ?=
PYTHON ?= python3

BIN := .venv/bin
STAMP := .venv/.installed
EXTRAS := dev,peers,dashboard,notebooks,integrations
OVERRIDES = $(SET) $(if $(DATA),"data.dir='$(DATA)'")
SETTINGS = "$(RECIPE)" $(OVERRIDES)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help compare metadataset train-meta controllers train lr-find schedules report dashboard bench test test-slow check format install clean

help: ## this list
	@echo "usage: make TARGET [RECIPE=digits | path.yaml] [SET=\"train.epochs=5 ...\"]"
	@echo "                   [DATA=directory of the images] [STRATEGY=cosine]"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "A recipe is a name in experiments/ or a path; see its settings with $(BIN)/metalr config show RECIPE."

compare: $(STAMP) ## the whole study: harvest, meta-train, train every method, write report.html
	@$(BIN)/metalr compare $(SETTINGS)

metadataset: $(STAMP) ## run and fork baseline trainings, write the meta-dataset
	@$(BIN)/metalr metadataset $(SETTINGS)

train-meta: $(STAMP) ## fit the meta-learners on the meta-dataset
	@$(BIN)/metalr train-meta $(SETTINGS)

controllers: $(STAMP) ## build the package's own controllers from the meta-dataset of RECIPE=cifar10-small
	@$(BIN)/metalr controllers build $(SETTINGS)

train: $(STAMP) ## train once under STRATEGY (cosine, one_cycle, plateau, find, metalr, ...), draw its curves
	@$(BIN)/metalr train $(SETTINGS) $(if $(STRATEGY),strategy=$(STRATEGY))

lr-find: $(STAMP) ## run the LR finder on the recipe's network, draw its curve, suggest an LR
	@$(BIN)/metalr lr-find $(SETTINGS)

schedules: $(STAMP) ## draw every hand schedule over the recipe's budget, print its LRs
	@$(BIN)/metalr schedules $(SETTINGS)

dashboard: $(STAMP) ## build the recipe's Weights & Biases workspace; without a login, write its definition
	@$(BIN)/metalr dashboard $(SETTINGS)

report: $(STAMP) ## write the report again from the records
	@$(BIN)/metalr report $(SETTINGS)

bench: $(STAMP) ## measure speed: BENCH="epoch floor --quick --output bench.json" chooses what
	@$(BIN)/python -m benchmarks $(BENCH)

test: $(STAMP) ## the fast tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "not slow and not gpu"

test-slow: $(STAMP) ## the slow tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m "slow and not gpu"

check: $(STAMP) ## formatting, lint and types, as in CI
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

format: $(STAMP) ## format, and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

install: $(STAMP) ## make .venv with metalr and its tools
	@$(BIN)/metalr --version

clean: ## remove caches and build files; runs, data and .venv stay
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find metalr tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} +

# The pins were tested on Python 3.11; elsewhere they are tried, and given up only where they do not resolve.
$(STAMP): setup.cfg constraints-py311.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "metalr needs Python 3.11 or newer, and $(PYTHON) is not: name one, such as: make install PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
		echo "$(PYTHON) has no venv module: install it (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@echo "Setting up .venv: PyTorch, metalr and its tools, up to 5 GB to fetch. This takes some minutes, once."
	@$(PYTHON) -m venv .venv
	@if $(PIP_INSTALL) -c constraints-py311.txt -e '.[$(EXTRAS)]' > .venv/install.log 2>&1; then :; \
	elif $(BIN)/python -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))'; then \
		tail -n 15 .venv/install.log; echo "Setting up .venv failed; the whole log is .venv/install.log"; exit 1; \
	else \
		echo "The pins for Python 3.11 do not resolve on $$($(BIN)/python -V): taking the newest versions."; \
		$(PIP_INSTALL) -e '.[$(EXTRAS)]' > .venv/install.log 2>&1 || { \
			tail -n 15 .venv/install.log; echo "Setting up .venv failed; the whole log is .venv/install.log"; exit 1; }; \
	fi
	@touch $(STAMP)
