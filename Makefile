# Everything that people and CI do, by name. `make` alone lists it.

PYTHON ?= $(or $(shell command -v python3.11),python3)
BIN := .venv/bin
READY := .venv/ready

help:                 ## list the targets
	@grep -E '^[a-z-]+: .*##' Makefile | sed -E 's/:[^#]*## /\t/' | expand -t 12

run: $(READY)         ## set up, simulate a fleet, train, evaluate, register and release a model
	$(BIN)/python run.py --pipeline training

test: $(READY)        ## all tests: under 15 minutes
	$(BIN)/python -m pytest -n 2 --dist loadfile

quick: $(READY)       ## the checks and the unit tests: under 2 minutes
	$(MAKE) check
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit

check: $(READY)       ## format, lint, types and import layers
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

setup: $(READY)       ## make the virtual environment .venv from the locked requirements

$(READY): requirements/setup.txt requirements/dev.txt pyproject.toml millwright/activation.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11) and "Python 3.11 is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --compile-bytecode --require-hashes -r requirements/dev.txt
	VIRTUAL_ENV=.venv $(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m millwright.activation >> $(BIN)/activate
	mkdir -p .millwright/local
	touch $(READY)

lock: $(READY)        ## resolve pyproject.toml into requirements/ anew
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) --extra dev -o requirements/dev.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) --extra dev --extra spark -c requirements/dev.txt -o requirements/spark.txt pyproject.toml
	$(BIN)/uv pip compile --quiet --upgrade $(LOCK) -o requirements/setup.txt requirements/setup.in

LOCK := --python-version 3.11 --universal --generate-hashes --no-emit-index-url --custom-compile-command 'make lock'

clean:                ## remove all run-time state; the virtual environment stays
	rm -rf .millwright
	mkdir -p .millwright/local

.PHONY: help run test quick check setup lock clean
