# Two commands on a fresh machine: `make demo` and `make test`. Everything else builds on the same environment.
PYTHON ?= python3
VENV   ?= .venv
JOBS   ?= 3
BUSY   ?= 14
RUNS   ?= 3
# Where `make gpu` leaves summary, logs and reports.
OUT    ?= build/gpu/out
PYTHONS ?= 3.11 3.12 3.13 3.14
BIN    := $(VENV)/bin
STAMP  := $(VENV)/installed

# The tests start hundreds of interpreters: each finds the byte code that pip left beside what it installed, and that of the one
# before, whatever the surroundings say.
export PYTHONDONTWRITEBYTECODE :=
export PYTHONPYCACHEPREFIX :=

.PHONY: help demo recording gpu gpu-wheels test lint types imports schemas workflows docs package tests test-under-load test-processes test-pythons coverage soak chaos calibrate bench pre-commit clean
.DEFAULT_GOAL := help

help: ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(STAMP) ## install, run the smoke rows on the mock provider, write their page, and say what to try next
	$(BIN)/python -m pytest benchmarks/ -m smoke --glasshouse-html
	@echo "the page is beside the report; next: $(BIN)/glasshouse view, or a row of your own: $(BIN)/glasshouse init DIRECTORY"

recording: $(STAMP) ## the demo on a terminal, recorded into docs/demo.svg
	$(BIN)/python -m benchmarks.demo_recording

gpu: ## on a machine with an NVIDIA GPU: doctor, probes, CUDA tests, rows and a summary, in eight minutes; resumes. docs/gpu.md
	@$(PYTHON) -m benchmarks.gpu --out $(OUT)

gpu-wheels: $(STAMP) ## what `make gpu` needs where there is no network, in build/gpu-wheels; GPU_PYTHON=3.12 is that machine's
	$(BIN)/python -m benchmarks.gpu.wheels

# Types and documentation are checked beside the tests, which wait for processes most of their time.
test: $(STAMP) ## what CI runs: lint, types, import contracts, schemas, workflows, documentation, tests
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target lint imports schemas workflows
	$(MAKE) --no-print-directory --jobs=2 tests types docs

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports --no-logo

schemas: $(STAMP)
	$(BIN)/check-jsonschema --check-metaschema schemas/report-v1.schema.json
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml .github/examples/*.yml

workflows: $(STAMP)
	$(BIN)/zizmor --offline --quiet .github/workflows .github/dependabot.yml .github/examples/*.yml
	$(BIN)/typos

docs: $(STAMP) ## the documentation as a site in build/site; a link that leads nowhere fails
	rm -rf build/docs build/site
	mkdir -p build/docs
	git ls-files -co --exclude-standard '*.md' '*.png' '*.svg' LICENSE ':!.github' | xargs cp --parents -t build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet

package: $(STAMP) ## sdist and wheel in dist/, and a look at what an index would show
	rm -rf dist
	$(BIN)/python -P -m build --installer pip
	$(BIN)/twine check --strict dist/*

tests: $(STAMP)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal --durations=20

test-under-load: $(STAMP) ## the tests three times beside 14 busy processes; BUSY=random RUNS=200 TESTS=... for others
	$(BIN)/python benchmarks/under_load.py --busy $(BUSY) --runs $(RUNS) -- $(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(TESTS)

test-processes: $(STAMP) ## the 30 tests of tests/processes.txt 200 times, each time beside 0 to 14 busy processes; takes a day
	$(MAKE) --no-print-directory test-under-load BUSY=random RUNS=200 TESTS=@tests/processes.txt

test-pythons: ## the tests that need no torch, on each Python of PYTHONS that is installed
	.ci/test-pythons $(PYTHONS)

coverage: $(STAMP) ## branch coverage of the rooms that pyproject.toml names, by the whole suite, subprocesses included
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n $(JOBS) --dist worksteal --durations=20
	$(BIN)/coverage combine
	$(BIN)/coverage report

soak: $(STAMP) ## every loop of 100 repetitions or more; the same code runs at small n in `make test`
	SOAK=1 $(BIN)/python -m pytest -m soak tests

chaos: $(STAMP) ## 300 runs with faults and kills at random points, and 100 on a Slurm of the tests; a few of them run in `make test`
	CHAOS=1 $(BIN)/python -m pytest -m chaos tests/chaos -s

calibrate: $(STAMP) ## an hour: rows of known truth on this machine, and simulated traces in full; every figure is printed
	CALIBRATE=1 $(BIN)/python -m pytest -s tests/calibration
	$(BIN)/python -m tests.calibration.honest

bench: $(STAMP) ## ratios, printed and not judged
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/opening.py
	$(BIN)/python benchmarks/sealed.py
	$(BIN)/python benchmarks/server.py
	$(BIN)/python -m benchmarks.marks
	$(BIN)/python -m benchmarks.ranks
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/witness.py
	$(BIN)/python -m benchmarks.naive
	$(BIN)/python -m benchmarks.starts --legs 10

pre-commit: $(STAMP) ## run the checks of .pre-commit-config.yaml at each commit
	$(BIN)/python -m pip install --quiet pre-commit
	$(BIN)/pre-commit install

clean: ## remove the environment and caches
	rm -rf $(VENV) build dist .hypothesis .pytest_cache .mypy_cache .ruff_cache .coverage*
