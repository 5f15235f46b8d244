.DEFAULT_GOAL := help
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
TORCH_CPU := 2.13.0
AIPERF := 0.13.0
APART := not parity and not gpu and not serve and not browser and not ray
DEFAULT := not long and $(APART)

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
	@mkdir -p build
	$(BIN)/mypy >build/mypy.log 2>&1 & mypy=$$!; \
	$(BIN)/pytest -q -n auto --dist loadfile --no-loadscope-reorder \
		-m "$(DEFAULT)"; tests=$$?; \
	wait $$mypy; types=$$?; \
	cat build/mypy.log; \
	test $$tests -eq 0 && test $$types -eq 0

test-intel: setup  ## the tests of numbers with MKL's code path for Intel processors (needs cc)
	mkdir -p build
	cc -shared -fPIC -o build/as_intel.so scripts/as_intel.c
	LD_PRELOAD=$(CURDIR)/build/as_intel.so $(BIN)/pytest -q -n auto --dist loadfile \
		-m "$(DEFAULT)" tests/runtime tests/train tests/lossless tests/test_strategies.py

test-long: setup  ## the tests that take minutes
	NLDC_HYPOTHESIS=long $(BIN)/pytest -q -m "long or $(APART)"

build/clients/.ready: scripts/clients.sh
	PYTHON=$(PYTHON) sh scripts/clients.sh build/clients
	@touch $@

test-serve: setup build/clients/.ready  ## a server under load, and public clients (installs them)
	NLDC_CLIENTS=$(CURDIR)/build/clients $(BIN)/pytest -q -m serve tests/serve

soak: setup  ## half an hour of clients of every kind at a server, and what it holds then
	$(BIN)/python -m tests.serve.soak --minutes 30 --out build/soak.json

build/aiperf/.ready:
	$(PYTHON) -m venv build/aiperf
	build/aiperf/bin/pip install -q aiperf==$(AIPERF)
	@touch $@

serve-bench: setup build/aiperf/.ready  ## how fast the server answers, by our client and by aiperf (in build/aiperf)
	$(BIN)/python benchmarks/serve.py --aiperf build/aiperf/bin/aiperf --out build/serve-bench.md

test-browser: setup  ## the pages in a real browser (installs playwright; needs chromium)
	$(BIN)/pip install -q playwright
	$(BIN)/pytest -q -m browser tests

test-ahead: setup  ## kernels of all strategies compiled for the 8B: none spills more, none takes more
	$(BIN)/pytest -q tests/runtime/test_carried_kernels.py

test-ray: setup  ## batches and the server on a Ray cluster of two nodes (installs Ray)
	$(BIN)/pip install -q -e '.[ray]'
	$(BIN)/pytest -q -m ray tests/cluster

build/docs-env/.ready: pyproject.toml
	$(PYTHON) -m venv build/docs-env
	build/docs-env/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" >build/docs-env/needs.txt
	build/docs-env/bin/pip install -q -r build/docs-env/needs.txt
	@touch $@

docs: build/docs-env/.ready  ## the site of docs/ in build/site, warnings are errors (installs mkdocs in build/docs-env)
	NO_MKDOCS_2_WARNING=1 build/docs-env/bin/mkdocs build --strict

pages: setup  ## write anew the pages of docs/ that are made from the library, the schema and README's figures
	$(BIN)/python -m scripts.site

test-parity: setup  ## logits against transformers (installs it)
	$(BIN)/pip install -q -e '.[parity]'
	$(BIN)/pytest -q -m parity

test-gpu: setup  ## the tests that need a CUDA device
	$(BIN)/pytest -q -m gpu

report: setup  ## measure the figures of README and docs/ anew and write their tables (ONLY="NAME...", see --list)
	OMP_NUM_THREADS=$(or $(OMP_NUM_THREADS),1) $(BIN)/python -m benchmarks.report $(ONLY)

gpu-report:  ## check and time everything on a GPU, without a network (WHEELS=.wheels, OUT=folder)
	$(PYTHON) scripts/gpu_report.py $(if $(WHEELS),--wheels $(WHEELS)) --out $(or $(OUT),build/gpu-report)

gpu-wheels:  ## fetch into .wheels what a bare GPU machine lacks
	PYTHON=$(PYTHON) sh scripts/gpu_wheels.sh .wheels

format:  ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

golden:  ## rewrite golden files; review the diff
	$(BIN)/pytest -q --update-golden -m "$(DEFAULT)"

clean:  ## remove what the commands above made
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

.PHONY: help setup docs pages smollm2 demo test test-intel test-long test-serve soak serve-bench test-browser test-ahead test-ray test-parity test-gpu report gpu-report gpu-wheels format golden clean
