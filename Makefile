# The two commands a newcomer needs; both set up what they need and may be run again.
#   make demo   build the embedded sample, train a tiny SLIP on it, print its zero-shot accuracy
#   make test   format, lint, types, and every test, three at a time; make test PYTEST_ARGS=   one at a time
# PYTHON=python3.12 make demo   chooses the interpreter; CONSTRAINTS= make demo   takes the newest torch (a CUDA build)

PYTHON ?= python3
CONSTRAINTS ?= -c constraints-cpu.txt
VENV := .venv
BIN := $(VENV)/bin
SETUP := pyproject.toml constraints-cpu.txt Makefile $(wildcard slip/data/*.c slip/data/*.h)
# How tests are shared out: tests/conftest.py. Three on two cores: those on the cluster mostly wait.
PYTEST_ARGS ?= -n 3 --dist loadfile

.PHONY: demo test lint

demo: $(VENV)/.installed-demo
	$(BIN)/python pipeline/build_yfcc15m.py
	$(BIN)/python -m slip.train demo
	@echo "data set report: $(CURDIR)/data/yfcc15m-sample/report.html"

test: $(VENV)/.installed-test lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The stamps are written last, so that an interrupted installation is taken up again.
$(VENV)/.installed-demo: $(SETUP)
	$(MAKE) $(BIN)/python
	$(BIN)/python -m pip install $(CONSTRAINTS) -e '.[build,fast]'
	touch $@

$(VENV)/.installed-test: $(SETUP)
	$(MAKE) $(BIN)/python
	$(BIN)/python -m pip install $(CONSTRAINTS) -e '.[build,s3,eval,fast,test]'
	touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: PYTHON=python3.12 make" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
