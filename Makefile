# Everything happens in .venv; PYTHON is the interpreter that makes it (3.11 or newer).
PYTHON ?= python3
BIN := .venv/bin
# With the versions that the tests ran with, so that a release of today changes no result of tomorrow.
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c deploy/constraints.txt

STUDIES := $(shell find search_spaces -name '*.yaml' | sort)
# A few that together take every way: a folder, a transformer, a choice of method, a grid.
SOME := $(addprefix search_spaces/,norm_vs_all.yaml cifar10_images.yaml choose_variant.yaml \
	norm_vs_all_dyt.yaml tuned_baseline.yaml when_sam_on_wins.yaml paper/rho_figure.yaml paper/vit.yaml)
SPARE := $(shell $(PYTHON) -c "import os; print(max(1, os.cpu_count() - 1))")

.PHONY: study test test-without-ray test-ray check-without-ray check-ray check gpu faults exhaustive smoke lint types clean

study: .venv/installed
	$(BIN)/python -m study.run search_spaces/norm_vs_all.yaml

test: lint types
	$(MAKE) --no-print-directory --jobs 2 test-without-ray test-ray

test-without-ray:
	$(BIN)/python -m pytest -n $(SPARE) -m "not ray"

# Ray takes a core and more, and one Ray at a time is enough.
test-ray:
	$(BIN)/python -m pytest -m ray

check: .venv/installed-test
	$(BIN)/python -m study.run $(SOME) --smoke
	$(MAKE) --no-print-directory --jobs 2 check-without-ray check-ray
	$(BIN)/python -m tests.faults --short actor
	# Last, because with Ray's dashboard installed every Ray takes longer to start.
	$(PIP_INSTALL) -e '.[server,test,cluster]'
	$(BIN)/python -m pytest tests/services/test_cluster.py

check-without-ray:
	$(BIN)/python -m pytest -n $(SPARE) -m "not ray" tests/cross tests/hostile tests/faults tests/services

check-ray:
	$(BIN)/python -m pytest -m ray tests/smoke tests/services --ignore tests/services/test_cluster.py

# What only a GPU can show; on a machine without one every test is skipped.
gpu: .venv/installed-test
	$(BIN)/python -m pytest -n 4 tests/gpu

# Kills, outages, full disks and hostile input in real studies, many rounds of each: two hours.
faults: .venv/installed-test
	$(BIN)/python -m tests.faults

# Every variant on every subset in every model: about an hour on one core.
exhaustive: smoke
	EXHAUSTIVE=1 $(BIN)/python -m pytest tests/cross

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed-test
	$(BIN)/mypy

# Every study of search_spaces/, small and on digits, in one Ray session.
smoke: .venv/installed-test
	$(BIN)/python -m study.run $(STUDIES) --smoke

.venv/made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python 3.11 or newer is needed, {sys.executable} is {sys.version.split()[0]}; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	@touch $@

.venv/installed: .venv/made pyproject.toml deploy/constraints.txt
	@echo "Installing into .venv; PyTorch with CUDA is a download of about 3 GB, see README for the CPU build."
	$(PIP_INSTALL) -e .
	@touch $@

.venv/installed-test: .venv/installed
	$(PIP_INSTALL) -e '.[server,test]'
	@touch $@

clean:
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
