# make run   the main job, from a clean clone: needs Python 3.11+, make and the network, nothing else
# make test  every check that CI runs
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?= -n 2 --dist worksteal
DEV_STAMP := $(VENV)/.installed-dev
# --no-compile: of torch and the rest a fraction is ever imported, and Python compiles that then.
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt

.PHONY: help run test test-slow fix lint gpu-bundle constraints clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' $(MAKEFILE_LIST)

run: $(STAMP)  ## train with cycling precision and compare with static precision, 1 to 1.5 minutes
	@$(BIN)/bitdial train cyclic $(ARGS)

test: lint  ## every check that CI runs: style, types, room boundaries, tests
	@$(BIN)/python -m pytest $(PYTEST_ARGS) --cov --cov-report=term

test-slow: $(DEV_STAMP)  ## the tests that take longer
	@$(BIN)/python -m pytest -m slow

lint: $(DEV_STAMP)  ## style, types and room boundaries
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(DEV_STAMP)  ## put style right
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

# A machine may have several Pythons, and launchers that answer to a name without a Python behind it: try each.
$(BIN)/python:
	@for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	    echo "Creating $(VENV) with $$("$$python" --version)"; \
	    "$$python" -m venv $(VENV) && exit 0; \
	    echo "$$python cannot create a virtual environment; install its venv module (Debian: apt install python3-venv)" >&2; exit 1; \
	  fi; \
	done; \
	echo "bitdial needs Python 3.11 or newer, and none was found; install one, or name it: make run PYTHON=/path/to/python3" >&2; exit 1

# Stamps: installing again happens only when the dependencies change, so a second run needs no network.
$(STAMP): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing bitdial and its dependencies into $(VENV) (once; torch alone is large)"
	@$(INSTALL) --editable .
	@touch $@

$(DEV_STAMP): $(STAMP)
	@echo "Installing the tools for development"
	@$(INSTALL) --editable '.[dev,text,timm,float8,compression,export,search,app]'
	@touch $@

gpu-bundle: $(DEV_STAMP)  ## collect what a bare machine with a GPU lacks, and print the command to start there
	@$(BIN)/python -m benchmarks.gpu.bundle $(ARGS)

constraints: $(DEV_STAMP)  ## pin the newest versions that all extras agree on
	@$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[all,dev,bench]'
	@# setuptools: torch asks for it from Python 3.12 on, and pip freeze leaves it out
	@{ sed -n '/^#/p;/^setuptools==/p' constraints.txt; \
	   $(BIN)/python -m pip freeze --exclude-editable | tr 'A-Z_' 'a-z-' | sort; } > constraints.new
	@mv constraints.new constraints.txt

clean:  ## remove what the checks leave behind (runs/ and .venv/ stay)
	@rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* htmlcov build dist
