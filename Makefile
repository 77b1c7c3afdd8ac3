# Two commands on a fresh machine: `make demo` and `make test`. Everything else builds on the same environment.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 3
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

.PHONY: help demo test lint types imports schemas tests coverage soak chaos calibrate bench clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## install, run the smoke rows on the mock provider, show table and report path
	$(BIN)/python -m pytest benchmarks/ -m smoke

test: lint types imports schemas tests ## what CI runs: lint, types, import contracts, schemas, tests

lint: $(STAMP)
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

schemas: $(STAMP)
	$(BIN)/check-jsonschema --check-metaschema schemas/report-v1.schema.json
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml .github/examples/*.yml

tests: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

coverage: $(STAMP) ## branch coverage of the rooms that must be covered whole
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine
	$(BIN)/coverage report

soak: $(STAMP) ## every loop of 100 repetitions or more; the same code runs at small n in `make test`
	SOAK=1 $(BIN)/python -m pytest -m soak tests

chaos: $(STAMP) ## 300 runs with faults and kills at random points; three of them run in `make test`
	CHAOS=1 $(BIN)/python -m pytest -m chaos tests/chaos -s

calibrate: $(STAMP) ## an hour: rows of known truth on this machine, and simulated traces in full; every figure is printed
	CALIBRATE=1 $(BIN)/python -m pytest -s tests/calibration

bench: $(STAMP) ## ratios, printed and not judged
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/opening.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/scale.py

clean: ## remove the environment and caches
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .coverage*
