# make reproduce   run the whole default study, print its results table
# make test        all tests (`make test ARGS="-k study"` for some)
# make lab         JupyterLab in notebooks/
# make benchmark   time the models and the phantom
# make clean       remove the environment and all that the phantom made; data and runs of your own stay
PYTHON ?= python3
CORES ?= 2
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: reproduce test lab benchmark clean

reproduce: .venv/installed
	@started=$$(date +%s); \
	snakemake table --cores $(CORES) --quiet rules host $(ARGS) && \
	echo && echo "Done in $$(( ($$(date +%s) - started) / 60 )) minutes." && \
	echo "Figures and tables: figures/   Executed notebooks: papermill_runs/"

test: .venv/installed
	ruff check . && ruff format --check . && python -m pytest -q -n $(CORES) --dist loadfile $(ARGS)

lab: .venv/installed
	jupyter lab --notebook-dir=notebooks

benchmark: .venv/installed
	python tests/benchmarks/models.py

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainvis needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing the pinned requirements (a few minutes, about 6 GB) ..."
	$(BIN)/python -m pip install --quiet --progress-bar off -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .snakemake data/phantom papermill_runs/phantom*
