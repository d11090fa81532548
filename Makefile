# make reproduce   run the whole default study, print its results table
# make test        all tests (`make test ARGS="-k study"` for some)
# make share       pages of all runs that open without a server: papermill_runs/share, and one zip beside it
# make lab         JupyterLab in notebooks/
# make benchmark   how fast it is, against the obvious way and this machine's ceiling (`ARGS="steps --size paper"`, ARGS=--help)
# make lock        rewrite requirements.lock after requirements.txt changed (`make lock ARGS=--upgrade`: newest of all)
# make audit       known vulnerabilities of what is locked; fails, too, where their list cannot be read
# make kills       kill the smoke study at random moments, 200 times (ARGS=60 for fewer), and compare what comes of it
# make cluster     the smoke study on a real SLURM, set up on this machine: tests/cluster/slurm.py says what it wants
# make clean       remove the environment and all that the phantom made; data and runs of your own stay
PYTHON ?= python3
CORES ?= 2
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.PHONY: reproduce test share lab benchmark kills cluster lock audit clean

# Runs say themselves what is done and what is left. Snakemake is quiet; it keeps its books, a log among them, here, or in
# BRAINVIS_RUNS if the checkout is read-only.
reproduce: .venv/installed
	@started=$$(date +%s); where=.; test -w . || \
	where="$${BRAINVIS_RUNS:?this checkout is read-only: set BRAINVIS_RUNS to a writable folder}"; \
	python -m snakemake table --directory "$$where" --cores $(CORES) --quiet all $(ARGS) || \
	{ echo "Stopped. The error is above, or in the newest file in $$where/.snakemake/log." >&2; exit 1; }; \
	echo && echo "Done in $$(( ($$(date +%s) - started) / 60 )) minutes." && \
	echo "Figures and tables: $${BRAINVIS_FIGURES:-figures}/   Executed notebooks: $${BRAINVIS_RUNS:-papermill_runs}/"

# Modules, not their scripts: in a folder with a space, pip writes scripts in which the shell reads a $ of its name.
test: .venv/installed
	python -m ruff check . && python -m ruff format --check . && python -m pytest -q -n $(CORES) --dist loadfile --no-loadscope-reorder $(ARGS)

# Snakemake's report names the commit of the workflow and shows its graph; all that it loads is in its folder.
share: .venv/installed
	@runs="$${BRAINVIS_RUNS:-papermill_runs}"; mkdir -p "$$runs/share" && \
	python -m snakemake pages --forcerun pages --cores $(CORES) --quiet all $(ARGS) && \
	python -m snakemake pages --report "$$runs/share/report.zip" --cores $(CORES) --quiet all $(ARGS) && \
	cd "$$runs/share" && rm -rf report && python -m zipfile -e report.zip . && rm report.zip && cd .. && \
	python -c 'import shutil; shutil.make_archive("share", "zip", ".", "share")' && \
	echo "Open $$runs/share/index.html, or send $$runs/share.zip"

lab: .venv/installed
	python -m jupyterlab --notebook-dir=notebooks

benchmark: .venv/installed
	PYTHONPATH="$(CURDIR)/tests:$$PYTHONPATH" python -m benchmarks $(ARGS)

kills: .venv/installed
	python tests/kills.py $(ARGS)

cluster: .venv/installed
	PYTHONPATH="$(CURDIR)/tests:$$PYTHONPATH" python tests/cluster/slurm.py $(ARGS)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "brainvis needs Python 3.11 or newer; this is " + sys.version)'
	$(PYTHON) -m venv .venv

# Constraints without hashes: the same versions for all, and yet a torch of another build (CPU, other CUDA) will do.
.venv/installed: requirements.txt requirements.lock pyproject.toml | .venv/bin/python
	.venv/bin/python -m pip install --quiet --upgrade pip
	@echo "Installing the locked requirements (a few minutes, about 6 GB) ..."
	.venv/bin/python -m pip install --quiet --progress-bar off \
		--constraint requirements.lock --build-constraint requirements.lock --editable '.[test]'
	@touch $@

# Versions that are locked stay, unless a requirement or --upgrade changes them.
lock: | .venv/bin/python
	.venv/bin/python -m pip install --quiet uv==0.13.9
	.venv/bin/python -m uv pip compile --quiet --universal --python-version 3.11 --extra test pyproject.toml \
		--output-file requirements.lock $(ARGS)

audit: | .venv/bin/python
	.venv/bin/python -m pip install --quiet uv==0.13.9
	.venv/bin/python -m uv tool run pip-audit@2.10.1 --strict --no-deps --disable-pip -r requirements.lock $(ARGS)

clean:
	rm -rf .venv .snakemake data/phantom papermill_runs/phantom*
