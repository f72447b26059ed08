# On a machine with nothing but Python 3.11 or newer: `make demo`, `make check`, `make test` and `make docs`.

PYTHON ?= python3
DATA ?=

VENV := .venv
LOWEST := .venv-lowest
VENV_PYTHON := $(VENV)/bin/python
INSTALL := $(VENV_PYTHON) -m pip install -qq --disable-pip-version-check --constraint .constraints.txt

# threads of the tests' own would compete with the processes
PYTEST := OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal

.PHONY: help demo lint check test nightly docs sanitize lowest mutants fuzz certify audit

help:
	@echo "make demo              install on first use, then train, sample and forecast on a simulated Hawkes process"
	@echo "make demo DATA=PATH    the same on your data: a folder of Parquet/JSON splits, or a hub id such as easytpp/taxi"
	@echo "make check             install on first use, then run ruff, mypy and the quick tests: while you work"
	@echo "make test              the same with all but the nightly tests: before you push, and in continuous integration"
	@echo "make nightly           all tests: also every wrong build of the native code, each compiled anew"
	@echo "make docs              build the documentation into docs/_build, notebooks run; a warning is an error"
	@echo "make sanitize          run the tests of the compiled code in a build that finds wrong reads, writes and arithmetic"
	@echo "make lowest            run the quick tests with the oldest versions that pyproject.toml allows, in $(LOWEST)"
	@echo "make mutants           plant 200 mistakes, one at a time, and run the tests that must catch each: hours"
	@echo "make fuzz              try 100,000 damaged files, checkpoints, options, requests and command lines: each must end well, hours"
	@echo "make certify           test every sampler at a million events per cell, eager and compiled: hours"
	@echo "make audit             ask for known vulnerabilities of what is installed"
	@echo
	@echo "All install into $(VENV). To use another Python (3.11 or newer) than \`python3\`: make demo PYTHON=python3.12"

demo: $(VENV)/.installed
	@$(VENV_PYTHON) -m tppsd demo $(if $(DATA),--data "$(DATA)")

lint: $(VENV)/.installed-test
	$(VENV_PYTHON) -m ruff check .
	$(VENV_PYTHON) -m ruff format --check .
	$(VENV_PYTHON) -m mypy

check: lint
	$(PYTEST) -m "not slow"

test: lint
	$(PYTEST) -m "not nightly"

nightly: $(VENV)/.installed-test
	$(PYTEST)

docs: $(VENV)/.installed-docs
	$(VENV_PYTHON) -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build
	@echo "Written: docs/_build/index.html"

# Python itself is not instrumented, so that the run-time libraries must be loaded before it; what it leaks is not of interest.
# The first error ends the process that makes it, and so its test.
# Left out: what compiles the library again, which takes a minute, and what runs commands, training and large samples around it.
NOT_SANITIZED := not (at_once or cut_short or folder or fails or cell or certificate or command or callback or predict or auto or trial)

sanitize: $(VENV)/.installed-test
	CXX="$(CURDIR)/tests/support/sanitized" ASAN_OPTIONS=detect_leaks=0 \
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	$(VENV_PYTHON) -m pytest --numprocesses=auto --maxprocesses=8 --dist=worksteal -k "$(NOT_SANITIZED)" \
	    tests/test_compiled*.py tests/test_native_boundary.py tests/test_native_passes.py

lowest: $(LOWEST)/.installed
	$(subst $(VENV)/,$(LOWEST)/,$(PYTEST)) -m "not slow"

mutants: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m tests.mutation

CASES ?= 100000
fuzz: $(VENV)/.installed-test
	OMP_NUM_THREADS=1 $(VENV_PYTHON) -m tests.fuzz --cases $(CASES)

certify: $(VENV)/.installed
	$(VENV_PYTHON) -m tppsd certify
	$(VENV_PYTHON) -m tppsd certify --compile
	$(VENV_PYTHON) -m tppsd certify --compile --dtype bfloat16

# Asks the package index, so that it needs the network; in an environment of its own, which it does not look at.
audit: $(VENV)/.installed
	$(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install -qq --disable-pip-version-check pip-audit
	.venv-audit/bin/python -m pip_audit --skip-editable --path "$$($(VENV_PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

# The stamps: an installation is repeated only when what it was made from has changed.
$(VENV)/.installed: pyproject.toml .constraints.txt | $(VENV_PYTHON)
	@echo "Installing tppsd with PyTorch and Lightning into $(VENV): about 3 minutes, this once."
	@$(INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@echo "Installing the test tools (pytest, ruff, mypy, Jupyter kernel): about a minute, this once."
	@$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	@echo "Installing what builds the documentation (Sphinx, MyST, Furo): half a minute, this once; the first build runs the notebooks."
	@$(INSTALL) --editable '.[docs]'
	@touch $@

$(VENV_PYTHON):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "tppsd needs Python 3.11 or newer; \`$(PYTHON) --version\` says: $$($(PYTHON) --version 2>&1)"; \
	    echo "Name a newer one, for example: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "\`$(PYTHON) -m venv\` failed: see its message above."; exit 1; }

$(LOWEST)/.installed: pyproject.toml tests/support/lowest_versions.py
	@echo "Installing the oldest versions that pyproject.toml allows into $(LOWEST): some minutes, this once."
	@$(PYTHON) -m venv $(LOWEST)
	@$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check packaging
	@$(LOWEST)/bin/python tests/support/lowest_versions.py > $(LOWEST)/constraints.txt
	@$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check --constraint $(LOWEST)/constraints.txt --editable '.[test]'
	@touch $@
