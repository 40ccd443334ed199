# Two commands on a fresh machine with Python and make: `make demo` and `make test`.
# Everything goes into .venv; `make clean` takes it away again.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# fairseq2 has wheels for Python 3.10-3.12 on x86-64 Linux and on macOS only.
HAS_FAIRSEQ2 := $(shell $(or $(PYTHON),false) -c 'import platform as p, sys; print("yes" if sys.version_info < (3, 13) \
	and (p.system() == "Darwin" or (p.system() == "Linux" and p.machine() == "x86_64")) else "")' 2>/dev/null)
comma := ,
EXTRAS := dev$(if $(HAS_FAIRSEQ2),$(comma)fairseq2)

.PHONY: help install demo test lint types unit bench clean

help: ## Show what there is to make.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

install: $(STAMP) ## Create .venv and install the package with its extras, at the pinned versions.

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: Python >= 3.11 must be on the PATH (python3.11, python3.12 or python3)"; exit 1; }
	@test -n "$(HAS_FAIRSEQ2)" || echo "note: fairseq2 has no wheel for this Python or machine and is left out; everything else works without it"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[lm]' || \
		echo "note: the extra 'lm' (kenlm, flashlight-text) needs a C++ compiler and cmake here and is left out; beam search is not available"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[vad]' || \
		echo "note: the extra 'vad' (silero-vad, onnxruntime) has no wheel for this machine and is left out; manifest segment --vad silero is not available"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[export]' || \
		echo "note: the extra 'export' (onnx, onnxscript, onnxruntime) has no wheel for this machine and is left out; audio-ssl export writes .pt2 alone"
	@touch $@

demo: $(STAMP) ## Run the main job on the shipped corpus: manifest, pretrain, extract, finetune, evaluate (under 10 minutes).
	$(BIN)/python tools/demo.py

test: lint types unit ## Lint, types and all tests.

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# Two processes of one thread each: most tests wait for files or child processes, or are too small for two threads.
JOBS := 2

unit: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile

# `make bench BENCH=--record` puts this machine's ratios on record instead.
BENCH := --check

bench: $(STAMP) ## Compare speed and memory beside the peers with docs/bench.json (long; leave the machine alone meanwhile).
	$(BIN)/python tools/bench.py step --case tiny_cpu $(BENCH) docs/bench.json
	$(BIN)/python tools/bench.py step --case small $(BENCH) docs/bench.json
	$(BIN)/python tools/bench.py forward --case base $(BENCH) docs/bench.json
	$(BIN)/python tools/bench.py step --case base $(BENCH) docs/bench.json

clean: ## Remove .venv and caches; runs and data stay.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
