# The two commands of a newcomer are `make demo` and `make test`; everything else is for those who change the code.
# Each target makes .venv by itself: pip only, versions from constraints.txt, torch first and alone.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check -qq
NICE   ?=
# Two test workers with one thread each: more threads than cores make small tensors slower, not faster.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(NICE) $(BIN)/python -m pytest
# Extra arguments: make demo ARGS="--language ell", make test ARGS="-k layers".
ARGS   ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test check format bench evidence parity slow browser cluster coverage starter clean

help:  ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(READY)  ## make .venv and install everything into it (the other targets do this themselves)

$(READY): pyproject.toml constraints.txt $(wildcard starter/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "allophone needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing)."; \
	  echo "Name another one: make PYTHON=/path/to/python3.12 demo"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make $(VENV). On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }
	@echo "Installing torch ..."
	@$(PIP) install -c constraints.txt torch
	@echo "Installing allophone and its starter corpus ..."
	@$(PIP) install -c constraints.txt -e '.[dev]' $(if $(wildcard starter/pyproject.toml),-e ./starter)
	@touch $@

demo: $(READY)  ## add one language to the starter encoder and write the report
	@$(NICE) $(BIN)/allophone demo $(ARGS)

test: $(READY)  ## the default tests, with the share of covered lines in L0 to L4
	@$(PYTEST) --cov --cov-report=term:skip-covered --cov-fail-under=90 $(ARGS)

check: $(READY)  ## ruff, formatting, mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(NICE) $(BIN)/mypy

format: $(READY)  ## rewrite the files as `make check` wants them
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(READY)  ## timings against named peers
	@$(NICE) $(BIN)/allophone benchmark $(or $(ARGS),encode)

evidence: $(READY)  ## expansion to four languages with three seeds each: hours
	@$(NICE) $(BIN)/python scripts/evidence.py $(ARGS)

parity: $(READY)  ## every comparison with an independent implementation, slow ones included
	@$(PYTEST) -m "parity and not gpu and not network" $(ARGS)

slow: $(READY)  ## the tests that take minutes
	@$(PYTEST) -m "slow and not gpu and not network" $(ARGS)

browser: $(READY)  ## the pages in a headless Chromium (Debian, Ubuntu: apt install chromium)
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || { \
	  echo "There is no Chromium here. On Debian: sudo apt install chromium"; exit 1; }
	@$(PYTEST) -n 0 -m browser $(ARGS)

cluster: $(READY)  ## corpus jobs on a Ray cluster of three nodes here, two of them killed (installs Ray)
	@$(PIP) install -c constraints.txt -e '.[ray]'
	@$(PYTEST) -n 0 -m "not gpu and not network" tests/unit/test_engine_ray.py $(ARGS)

coverage: $(READY)  ## the default tests again, with a page per file in htmlcov/
	@$(PYTEST) --cov --cov-report=html --cov-report=term:skip-covered --cov-fail-under=90 $(ARGS)
	@echo "htmlcov/index.html"

starter: $(READY)  ## build the starter corpus again from its Debian packages
	@$(NICE) $(BIN)/python -m starter.build $(ARGS)

clean:  ## remove what these targets made, except runs/
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage htmlcov build src/*.egg-info
