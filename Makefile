# The two commands: make demo, make test. Both set up .venv first where that is not done.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed

.PHONY: help setup demo test docs lint types format clean
help:  ## what there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(DONE)  ## make .venv and install graphrec with everything a developer needs

$(DONE): pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(f"graphrec needs Python 3.11 or newer, {sys.executable} is {v[0]}.{v[1]}; run: make PYTHON=python3.12 ...") if v < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $(DONE)

demo: setup  ## generate a catalog, extract features, train, evaluate, write runs/demo/report.html
	$(BIN)/graphrec demo --out runs/demo

test: setup  ## run the tests (with real data where GRAPHREC_DATA points to it)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

docs: setup  ## build the docs site in build/site; fails on a warning or a broken link
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: setup  ## ruff: lint and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup  ## mypy, strict
	$(BIN)/mypy

format: setup  ## let ruff mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove caches and the virtual environment
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
