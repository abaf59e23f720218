# Two commands matter: `make reproduce` and `make test`. Both build their own virtual environment first.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV    ?= .venv
STAMP   ?= $(VENV)/.installed
PYTHON  ?= python3
PROFILE ?= paper
JOBS    ?= 2
ARGS    ?=
PEERS   ?= .peers
DOCS    ?= .docs
FRAMES  ?= .integrations
PY      := $(abspath $(VENV))/bin/python
COMPUTE := $(wildcard nbs/experiments/*.ipynb nbs/results/*.ipynb)
PYTHON_FILES := impsamp tests benchmarks data examples docs
export PATH := $(abspath $(VENV))/bin:$(PATH)
export PYTHONPATH := $(CURDIR)
export PYTHONHASHSEED := 0

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

install: $(STAMP)  ## the pinned environment, in $(VENV)
$(VENV)/.installed: requirements.lock requirements.hashes pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "impsamp needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet "$$(grep '^torch==' requirements.lock)"
	$(PY) -m pip install --quiet --require-hashes --no-deps -r requirements.hashes
	$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

reproduce: $(STAMP)  ## every figure and table (PROFILE=paper, full or smoke; JOBS=2; ARGS=--strict, --force, --timeout 3600, --dry-run, ids)
	$(PY) -m impsamp.reproduce run --profile $(PROFILE) --jobs $(JOBS) $(ARGS)

smoke: $(STAMP)  ## every experiment and result in seconds, written to _runs/ only
	$(PY) -m impsamp.reproduce run --profile smoke --jobs $(JOBS) $(ARGS)

figures: $(STAMP)  ## figures and tables from the committed records, no training
	$(PY) -m impsamp.reproduce figures $(ARGS)

test: $(STAMP) check  ## everything that proves the package right, in minutes
	OMP_NUM_THREADS=1 nbdev_test --path nbs --skip_folder_re '^(experiments|results)$$' --n_workers $(JOBS) --timing
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist worksteal -m 'not full' tests --ignore tests/house --durations=20  # check has run those

test-full: $(STAMP) check  ## the same, and the evidence that takes longer
	OMP_NUM_THREADS=1 nbdev_test --path nbs --skip_folder_re '^(experiments|results)$$' --n_workers $(JOBS) --flags slow --timing
	OMP_NUM_THREADS=1 HYPOTHESIS_PROFILE=search $(PY) -m pytest -n $(JOBS) tests --ignore tests/house
	OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) -m full tests/house

check: $(STAMP)  ## notebooks clean, generated files in step, lint
	$(PY) -m ruff check --quiet nbs $(PYTHON_FILES)
	$(PY) -m ruff format --quiet --check nbs $(PYTHON_FILES)
	$(PY) -m pytest -n $(JOBS) -p no:cacheprovider -m 'not full' tests/house

export: $(STAMP)  ## notebooks -> impsamp/*.py, outputs of experiments removed
	$(PY) -m ruff format --quiet nbs
	$(PY) tests/house/export.py
	jupyter nbconvert --log-level WARN --clear-output --inplace $(COMPUTE)
	nbdev_clean --fname nbs

run: $(STAMP)  ## execute one notebook in place, a tutorial in full: make run NB=nbs/03_theory/01_convergence.ipynb
	IMPSAMP_TUTORIAL=full jupyter nbconvert --log-level WARN --to notebook --execute --inplace $(NB)
	$(PY) docs/smaller.py $(NB)
	nbdev_clean --fname $(NB)

bench: $(STAMP) $(PEERS)/.installed  ## side-by-side timings with the peers of benchmarks/peers.lock
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(abspath $(PEERS)) $(PY) -m benchmarks

docs: $(STAMP) $(DOCS)/.installed  ## the site, in _docs/html (tools of docs/requirements.lock, in $(DOCS))
	PYTHONPATH=$(CURDIR):$(abspath $(DOCS)) $(PY) docs/build.py $(ARGS)

browse: docs  ## open every page in Chromium at two widths: console, formulas, hosts, overflow
	$(PY) docs/browse.py

$(DOCS)/.installed: docs/requirements.lock $(STAMP)
	$(PY) -m pip install --quiet --no-deps --upgrade --target $(DOCS) -r $<
	@touch $@

integrations: $(FRAMES)/.installed  ## Lightning, transformers, accelerate, torchdata, TensorBoard, gymnasium: their tests and notebooks
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(abspath $(FRAMES)) $(PY) -m pytest tests/integrations tests/samplers/test_integrations.py
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(abspath $(FRAMES)) $(PY) -m pytest tests/house/test_examples.py -k integrations
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(abspath $(FRAMES)) nbdev_test --path nbs/15_integrations --flags integrations --n_workers 1
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR):$(abspath $(FRAMES)) nbdev_test --path nbs/tutorials/05_replay.ipynb --flags integrations --n_workers 1

$(FRAMES)/.installed: integrations.lock $(STAMP)
	@rm -rf $(FRAMES)
	$(PY) -m pip install --quiet --no-deps --target $(FRAMES) -r integrations.lock
	@touch $@

cuda: $(STAMP)  ## checks on a CUDA device, in minutes; status 3 where there is none
	$(PY) examples/cuda_check.py

$(PEERS)/.installed: benchmarks/peers.lock $(STAMP)
	@mkdir -p $(PEERS)
	@while read -r peer; do $(PY) -m pip install --quiet --no-deps --upgrade --target $(PEERS) "$$peer" \
	  || echo "$$peer cannot be had here: it will be missing from the tables"; done < $<
	@touch $@

lock: $(STAMP)  ## write requirements.lock and requirements.hashes from the present environment
	$(PY) -m pip freeze --all --exclude-editable --exclude impsamp --exclude pip | sed 's/+cpu$$//' > requirements.lock
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	grep -v '^torch==' requirements.lock | build/lock/bin/uv pip compile --quiet --generate-hashes --no-deps --universal --python-version 3.11 \
	  --no-annotate --no-header --output-file requirements.hashes -

dist: $(STAMP)  ## wheel and source archive in dist/; the same commit gives the same bytes
	rm -rf build dist
	export SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct); \
	  $(PY) -m build --no-isolation --outdir dist . && $(PY) tests/house/same_bytes.py dist/*.tar.gz
	cd dist && sha256sum *

clean:  ## what the build leaves behind; finished runs stay
	rm -rf _runs _docs _proc build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .mypy_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

.PHONY: help install reproduce smoke figures test test-full check export run bench integrations docs browse cuda lock dist clean
