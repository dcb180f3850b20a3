# Every target does its own set-up: a virtual environment in .venv, filled from constraints.txt, is
# made on first use and again only when setup.py or constraints.txt change.
#   make demo | test | lint | types        PYTHON=python3.12 picks the interpreter, VENV the folder

PYTHON ?= python3
VENV   ?= .venv
EXTRAS ?= data,dev,parity
ARGS   ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.trivium-$(EXTRAS)
BASE   := $(VENV)/.trivium
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
ROOMS  := engine kernels data_pipeline
PYTHON_FILES := $(wildcard setup.py $(ROOMS) tools examples tests)

.DEFAULT_GOAL := help
.PHONY: help install kernels demo test test-slow test-gpu lint format typing types clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(BIN)/python:
	@echo "making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "Trivium needs Python 3.10 or newer; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@$(PYTHON) -m venv $(VENV)

# setuptools first and no build isolation: torch needs setuptools anyway, a second copy costs time
$(BASE): setup.py constraints.txt | $(BIN)/python
	@echo "installing trivium into $(VENV) (a minute or two, once)"
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation --editable .
	@touch $@

$(STAMP): $(BASE)
	@echo "installing trivium[$(EXTRAS)] into $(VENV)"
	@$(PIP) --no-build-isolation --editable '.[$(EXTRAS)]'
	@touch $@

install: $(STAMP)  ## make .venv and install Trivium into it

kernels: $(BASE)  ## compile the CUDA kernels in place, with nvcc; ARGS='--arch native' for this GPU
	@$(BIN)/python -m trivium.kernels.build --cache build/kernels $(ARGS)

demo: $(BASE)  ## pretrain a small MoE model over 4 processes, stop it, resume it, read its text
	@$(BIN)/python tools/demo.py $(ARGS)

test: $(STAMP)  ## the fast tests (on a CPU); ARGS='-k layout -x' goes to pytest
	@$(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMP)  ## the tests that take minutes
	@$(BIN)/python -m pytest -m slow $(ARGS)

test-gpu: $(STAMP)  ## the tests that need a GPU
	@$(BIN)/python -m pytest -m gpu $(ARGS)

lint: $(STAMP)  ## ruff: style and format
	@$(BIN)/ruff check $(PYTHON_FILES)
	@$(BIN)/ruff format --check $(PYTHON_FILES)

format: $(STAMP)  ## let ruff repair what it can
	@$(BIN)/ruff check --fix $(PYTHON_FILES)
	@$(BIN)/ruff format $(PYTHON_FILES)

typing:
	@mkdir -p build/typing/trivium
	@for room in $(ROOMS); do ln -sfn ../../../$$room build/typing/trivium/$$room; done

types: $(STAMP) typing  ## mypy
	@$(BIN)/mypy build/typing/trivium $(if $(wildcard tools/*.py),tools)

clean:  ## remove build products; .venv and runs stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache
