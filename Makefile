# make reproduce   run the whole default study, print its results table
# make test        all tests (`make test ARGS="-k study"` for some)
# make lab         JupyterLab in notebooks/
# make benchmark   time the models and the phantom
# make kills       kill the smoke study at random moments, 200 times (ARGS=60 for fewer), and compare what comes of it
# make cluster     the smoke study on a real SLURM, set up on this machine: tests/cluster/slurm.py says what it wants
# make clean       remove the environment and all that the phantom made; data and runs of your own stay
PYTHON ?= python3
CORES ?= 2
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)

.PHONY: reproduce test lab benchmark kills cluster clean

# Snakemake keeps its books in BRAINVIS_RUNS where that lies elsewhere, so that the checkout may be read-only.
reproduce: .venv/installed
	@started=$$(date +%s); \
	where="$${BRAINVIS_RUNS:-$(CURDIR)}"; case "$$where" in /*) ;; *) where="$(CURDIR)";; esac; \
	case "$$where/" in "$(CURDIR)"/*) where="$(CURDIR)";; esac; \
	snakemake table --directory "$$where" --cores $(CORES) --quiet rules host $(ARGS) && \
	echo && echo "Done in $$(( ($$(date +%s) - started) / 60 )) minutes." && \
	echo "Figures and tables: $${BRAINVIS_FIGURES:-figures}/   Executed notebooks: $${BRAINVIS_RUNS:-papermill_runs}/"

test: .venv/installed
	ruff check . && ruff format --check . && python -m pytest -q -n $(CORES) --dist loadfile $(ARGS)

lab: .venv/installed
	jupyter lab --notebook-dir=notebooks

benchmark: .venv/installed
	python tests/benchmarks/models.py

kills: .venv/installed
	python tests/kills.py $(ARGS)

cluster: .venv/installed
	PYTHONPATH="$(CURDIR)/tests:$$PYTHONPATH" python tests/cluster/slurm.py $(ARGS)

.venv/installed: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainvis needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	@echo "Installing the pinned requirements (a few minutes, about 6 GB) ..."
	$(BIN)/python -m pip install --quiet --progress-bar off -e '.[test]'
	@touch $@

clean:
	rm -rf .venv .snakemake data/phantom papermill_runs/phantom*
