# `make train` and `make test` do all the set-up on a fresh machine: a virtual environment, the install, the run.
#   make PYTHON=python3.12 VENV=/somewhere/venv train      another interpreter, another place

PYTHON ?=
VENV ?= .venv
WORKERS ?= 2
PIP_ARGS ?=
DATA ?=
CLANG ?= clang
ARGS ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.bnn-lightning-installed
# One compute thread for each test worker: with more, the workers wait for each other. A file stays with one worker: the
# blocks of the README follow upon one another.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
DISTRIBUTED := -n $(WORKERS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help install wheels train test test-slow fuzz fuzz-plans sanitize kills lint lint-types lint-style lint-imports lint-prose format bench-train bench-data bench-deploy graphs network-table docs clean

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(STAMP)  ## Create the environment and install the project with its development tools

# The stamp holds what was installed from; setup.cfg, setup.py and pyproject.toml renew it. What builds the runtime is in
# `dev`: without isolation pip does not unpack the compiler once more.
$(STAMP): setup.cfg setup.py pyproject.toml
	@test -x $(BIN)/python || sh tools/create_venv.sh "$(VENV)" $(PYTHON)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e ".[dev]"
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) --no-deps --no-build-isolation ./runtime
	@touch $@

wheels: $(STAMP)  ## Wheels of bnn-runtime for Linux, macOS and Windows, in dist/
	$(BIN)/python runtime/wheels.py $(ARGS)

train: $(STAMP)  ## Train on the embedded data: about a minute on two cores (ARGS="model=mlp ..." are overrides)
	$(BIN)/python train.py $(ARGS)

test: lint  ## Lint, types, import contracts, doctests and tests
	$(PYTEST) $(DISTRIBUTED) $(ARGS)

test-slow: $(STAMP)  ## The tests that `make test` leaves out
	$(PYTEST) $(DISTRIBUTED) -m slow $(ARGS)

fuzz: $(STAMP)  ## Read 100,000 packed files that lie or are damaged (ARGS="--inputs 1000 --seed 1")
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.fuzz $(ARGS)

fuzz-plans: $(STAMP)  ## Open and run 1,000,000 plan sections that lie, under AddressSanitizer and UBSan (CLANG=clang-22)
	$(BIN)/python -m tools.fuzz_plans --clang $(CLANG) $(ARGS)

kills: $(STAMP)  ## Kill trainings 100 times, resume them and compare to the bit (ARGS="--kills 10 --cases ddp")
	OMP_NUM_THREADS=1 $(BIN)/python tools/kills.py $(ARGS)

sanitize: $(STAMP)  ## Drawn programs and files that lie under AddressSanitizer and UBSan (CLANG=clang-22)
	$(BIN)/python -m tools.sanitize --clang $(CLANG) $(ARGS)

# mypy takes as long as the rest together: two at a time. The make of macOS, 3.81, cannot keep their outputs apart.
lint: $(STAMP)  ## ruff, mypy, import-linter, prose (summary lines, width of pages, spelling)
	@$(MAKE) --no-print-directory --jobs=2 $(if $(filter output-sync,$(.FEATURES)),--output-sync) lint-types lint-style lint-imports lint-prose

lint-types: $(STAMP)
	$(BIN)/mypy

lint-style: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

lint-imports: $(STAMP)
	$(BIN)/lint-imports

lint-prose: $(STAMP)
	$(BIN)/python tools/lint_prose.py
	$(BIN)/codespell src conf docs notebooks tests benchmarks tools runtime $(wildcard *.md)

format: $(STAMP)  ## Apply ruff's fixes and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-train: $(STAMP)  ## Step time and memory: binary, float twin, plain baseline, larq, SKD, BNext; overhead of a run
	$(BIN)/python -m benchmarks.train $(ARGS)
	$(BIN)/python -m benchmarks.skd $(ARGS)
	$(BIN)/python -m benchmarks.bnext $(ARGS)
	$(BIN)/python -m benchmarks.overhead $(ARGS)

bench-data: $(STAMP)  ## Images a second of our loaders beside torchvision's (DATA=folder: of ImageNet in that folder)
	$(BIN)/python -m $(if $(DATA),benchmarks.folder --folder $(DATA),benchmarks.data) $(ARGS)

network-table: $(STAMP)  ## Measure packed files of all networks on quiet cores, and write the table of docs/reference/networks.md
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.network_table measure $(ARGS)

graphs: $(STAMP)  ## Draw docs/graphs again: the basic blocks of binary networks
	$(BIN)/python tools/draw_graphs.py docs/graphs

SITE := $(VENV)/.bnn-lightning-docs

$(SITE): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e ".[docs]"
	@touch $@

docs: $(SITE)  ## Build the documentation as a site in site/ (python -m http.server -d site shows it)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build $(ARGS)

# Other runtimes, which nothing else needs.
BASELINES := $(VENV)/.bnn-lightning-benchmark

$(BASELINES): $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS) -e ".[benchmark]"
	@touch $@

bench-deploy: $(BASELINES)  ## Packed networks against onnxruntime, OpenVINO and compact networks: one table, and deploy.json
	$(BIN)/python -m benchmarks.share
	$(BIN)/python -m benchmarks.opening
	$(BIN)/python -m benchmarks.packed
	$(BIN)/python -m benchmarks.browser
	$(BIN)/python -m benchmarks.deploy --out deploy.json $(ARGS)

clean:  ## Remove caches and build outputs (not the environment, data or runs)
	rm -rf build dist site src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests conf benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
