.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_CPU := 2.13.0

help:  ## list the commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

$(VENV)/.ready: pyproject.toml
	PYTHON=$(PYTHON) VENV=$(VENV) TORCH_CPU=$(TORCH_CPU) sh scripts/setup.sh
	@touch $@

setup: $(VENV)/.ready  ## make the virtual environment (CPU torch where there is no CUDA device)

smollm2: setup  ## fetch SmolLM2-135M (Apache-2.0) and import it into build/smollm2
	$(BIN)/python scripts/smollm2.py

demo: setup  ## compile ar and linear_ss, generate text, and show that they agree
	$(BIN)/nldc compile strategies/ar.yaml -o build/ar
	$(BIN)/nldc compile strategies/linear_ss.yaml -o build/linear_ss
	$(BIN)/nldc run build/linear_ss --prompt "def fibonacci(n):" --max-new-tokens 64
	$(BIN)/nldc verify build/linear_ss --count 4 --max-new-tokens 64

test: setup  ## lint, types, and the default tests (under 10 minutes on 2 cores)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder \
		-m "not long and not parity and not gpu"

test-intel: setup  ## the tests of numbers with MKL's code path for Intel processors (needs cc)
	mkdir -p build
	cc -shared -fPIC -o build/as_intel.so scripts/as_intel.c
	LD_PRELOAD=$(CURDIR)/build/as_intel.so $(BIN)/pytest -q -n auto --dist loadfile \
		-m "not long and not parity and not gpu" tests/runtime tests/train tests/lossless tests/test_strategies.py

test-long: setup  ## the tests that take minutes
	NLDC_HYPOTHESIS=long $(BIN)/pytest -q -m "long or not parity and not gpu"

test-parity: setup  ## logits against transformers (installs it)
	$(BIN)/pip install -q -e '.[parity]'
	$(BIN)/pytest -q -m parity

test-gpu: setup  ## the tests that need a CUDA device
	$(BIN)/pytest -q -m gpu

gpu-report:  ## check and time everything on a GPU, without a network (WHEELS=.wheels, OUT=folder)
	$(PYTHON) scripts/gpu_report.py $(if $(WHEELS),--wheels $(WHEELS)) --out $(or $(OUT),build/gpu-report)

gpu-wheels:  ## fetch into .wheels what a bare GPU machine lacks
	PYTHON=$(PYTHON) sh scripts/gpu_wheels.sh .wheels

format:  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden:  ## rewrite golden files; review the diff
	$(BIN)/pytest -q --update-golden -m "not long and not parity and not gpu"

clean:  ## remove what the commands above made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help setup smollm2 demo test test-intel test-long test-parity test-gpu gpu-report gpu-wheels format golden clean
