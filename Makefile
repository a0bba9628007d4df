# `make demo` and `make test` are all a newcomer needs; each sets up .venv first where that is missing.
PYTHON ?= python3
SIZE ?= full
DATA ?= simulated
DEMO ?= demo
FIGURES ?= figures
KILLS ?= 200
BIN := .venv/bin
STAMP := .venv/.installed
LOG := .venv/install.log
ALLEN_LOG := .venv/allen.log
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt
ALLEN := { $(PIP) -e '.[allen]' && $(PIP) --no-deps allensdk; } >$(ALLEN_LOG) 2>&1
MINUTES ?= 10
SEED ?= 0

.PHONY: demo figures test test-slow test-core test-lowest test-fidelity kill-test fuzz browser-test bench-widgets lint clean setup allen help
.DEFAULT_GOAL := help

help:
	@echo "make demo       simulate, train, forecast, evaluate: the table and the figures in $(DEMO)/ (SIZE=full|small|tiny)"
	@echo "make demo DATA=allen   the same from Visual Coding files of a simulated mouse, with all four stimuli"
	@echo "make test       the tests, with the examples of docstrings and README          make test-slow  the long ones, too"
	@echo "make test-core  the tests without any extra, in build/core     make test-lowest  with the oldest versions allowed, in build/lowest"
	@echo "make test-fidelity   competitors against public implementations of their papers, in build/fidelity"
	@echo "make kill-test  commands killed with -9 and started again, KILLS=200 of them (about six minutes)"
	@echo "make fuzz       altered files through the command line, for MINUTES=10 with SEED=0; failing ones are kept in build/fuzz"
	@echo "make figures    run the notebooks, collect their figures in $(FIGURES)/index.html (about ten minutes)"
	@echo "make browser-test   the widgets in JupyterLab and Chromium     make bench-widgets  how long their updates take"
	@echo "make lint       ruff and pyright"
	@echo "make allen      install allensdk again, where the set-up could not"
	@echo "make clean      remove what the above made, .venv apart"

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "qf_toolkit: needs Python 3.11 or newer, found '$$($(PYTHON) --version 2>&1 | head -n 1)' as $(PYTHON). Name another: make PYTHON=python3.12 demo" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "qf_toolkit: $(PYTHON) lacks the venv or ensurepip module. Install it (on Debian and Ubuntu: python3-venv), or name another: make PYTHON=python3.12 demo" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv >/dev/null 2>&1 || { rm -rf .venv; \
	  echo "qf_toolkit: could not make .venv in $$(basename "$$PWD"). Is the folder writable, and is there space on the disk?" >&2; exit 1; }
	@echo "qf_toolkit: setting up .venv (some minutes, about 2.5 GB)"
	@$(PIP) -e '.[nwb,cluster,interpret,notebooks,dev]' >$(LOG) 2>&1 || { \
	  if grep -qi 'no space left' $(LOG); then echo "qf_toolkit: the disk is full; free about 2 GB and run the same again." >&2; \
	  elif grep -qiE 'failed to establish|name resolution|connection (error|refused|timed out|broken)|max retries|NewConnectionError|network is unreachable|ProxyError' $(LOG); \
	  then echo "qf_toolkit: the packages can't be fetched; is there a network? Details in $(LOG); run the same again." >&2; \
	  else echo "qf_toolkit: pip failed: $$(grep -i '^error' $(LOG) | head -n 1). Details in $(LOG)" >&2; fi; exit 1; }
	@$(ALLEN) || echo "qf_toolkit: allensdk could not be installed (details in $(ALLEN_LOG)); all but the Allen files works. Try again: make allen" >&2
	@touch $@

# its pins are years old, so that pip can't install it beside the rest in one command
allen: $(STAMP)
	@$(ALLEN) || { echo "qf_toolkit: allensdk could not be installed: $$(grep -i '^error' $(ALLEN_LOG) | head -n 1). Details in $(ALLEN_LOG)" >&2; exit 1; }

demo: $(STAMP)
	@$(BIN)/qf demo --out $(DEMO) --size $(SIZE) --data $(DATA)

test: $(STAMP)
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(STAMP)
	@$(BIN)/python -m pytest -n 2

# what needs an extra is skipped and says so
test-core: build/core/.installed
	@build/core/bin/python -m pytest -n 2 -m "not slow"

build/core/.installed: pyproject.toml constraints.txt
	@rm -rf build/core && $(PYTHON) -m venv build/core
	@build/core/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e . pytest pytest-xdist hypothesis
	@touch $@

# torch apart, whose oldest version would be another 2 GB; needs Python 3.11 or 3.12, for which the oldest versions have wheels.
# Old libraries warn of what newer ones below them deprecate: here a warning is no error
test-lowest: build/lowest/.installed
	@build/lowest/bin/python -m pytest -n 2 -m "not slow" -o filterwarnings=default

build/lowest/.installed: pyproject.toml constraints.txt tests/lowest.py
	@rm -rf build/lowest && $(PYTHON) -m venv build/lowest
	@build/lowest/bin/python tests/lowest.py >build/lowest/constraints.txt
	@build/lowest/bin/python -m pip install -q --disable-pip-version-check -c build/lowest/constraints.txt -e '.[nwb,cluster,interpret,notebooks,dev]'
	@touch $@

# apart from .venv, which needs none of these packages
test-fidelity: build/fidelity/.installed
	@build/fidelity/bin/python -m pytest tests/test_fidelity_*.py

build/fidelity/.installed: pyproject.toml constraints.txt
	@rm -rf build/fidelity && $(PYTHON) -m venv build/fidelity
	@build/fidelity/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[fidelity]' pytest hypothesis
	@touch $@

kill-test: $(STAMP)
	@$(BIN)/python tests/robustness/kill.py --kills $(KILLS)

fuzz: $(STAMP)
	@$(BIN)/python tests/robustness/fuzz.py --minutes $(MINUTES) --seed $(SEED) --keep build/fuzz

# apart from the tests: it needs Node.js and Chromium, and installs playwright-core (and as root on Debian Chromium)
browser-test: $(STAMP)
	@tests/browser/run

bench-widgets: $(STAMP)
	@$(BIN)/python benchmarks/widgets.py

# small models; `qf figures` without --fast has the paper's sizes, for a GPU
figures: $(STAMP)
	@$(BIN)/qf figures --fast --out $(FIGURES)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright

clean:
	@rm -rf $(DEMO) $(FIGURES) build notebooks/study notebooks/figures .pytest_cache .ruff_cache .hypothesis
	@find qf_toolkit tests notebooks -name __pycache__ -type d -prune -exec rm -rf {} +
