# Two commands, one study: `make run` and `make test` build the environment by themselves.

PYTHON     ?= python3.11
EXPERIMENT ?= experiments/shapes.yaml
CORES      ?= 2
BIN        := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help env lock run status figures lab test lint unit slow coverage gpu fuzz kills soak portable reliability bench docs doctor rebuild prune clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

env:  ## build the environment once a machine, link it as .venv; goes on where it was stopped
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not here; type: apt-get install python3.11-venv python3.11-dev g++" \
	  "  (or: conda env create -f environment.yml), or name another: make env PYTHON=..."; exit 1; }
	@$(PYTHON) scripts/environment.py

lock: env  ## resolve requirements.in anew: requirements.lock, environment.yml (UPGRADE=--upgrade moves all)
	$(BIN)/uv pip compile requirements.in --output-file requirements.lock --universal --python-version 3.11 \
	  --python $(BIN)/python --no-build-isolation-package mmcv-full --generate-hashes --quiet $(UPGRADE) \
	  --custom-compile-command "make lock"
	$(BIN)/python scripts/conda.py
	$(BIN)/uv pip compile docs/requirements.in --output-file docs/requirements.txt --universal --python-version 3.11 \
	  --generate-hashes --quiet $(UPGRADE) --custom-compile-command "make lock"

run: env  ## run an experiment to its report (EXPERIMENT=experiments/shapes.yaml)
	@$(BIN)/mutineck run $(EXPERIMENT)

status: env  ## which stages are done, which not, and why
	@$(BIN)/mutineck status $(EXPERIMENT)

figures: env  ## draw all figures again from what is stored
	@$(BIN)/mutineck figures $(EXPERIMENT)

lab: env  ## the notebooks in JupyterLab
	@$(BIN)/jupyter lab notebooks

# Types are one process's work: beside the quick tests no core waits for them.
test: env  ## lint, types, unit tests and the chained run of every notebook
	@$(MAKE) --no-print-directory -j 2 lint unit
	@$(MAKE) --no-print-directory slow

lint: env  ## ruff and mypy
	$(BIN)/ruff check mutineck tests scripts benchmarks
	$(BIN)/ruff format --check .
	$(BIN)/mypy mutineck scripts benchmarks

# One thread a process: the tests run side by side, and float sums do not depend on the number of cores.
unit: env  ## the quick tests, on CORES processes
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(CORES) --dist worksteal --durations 10 \
	  --junitxml .junit/unit.xml

slow: env  ## the tests that train or run notebooks
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -m slow -n $(CORES) --dist loadfile --durations 15 \
	  --junitxml .junit/slow.xml

# Not a part of `make test`: counting takes half as much time again.
coverage: env  ## tell which lines of mutineck the unit tests run
	OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(BIN)/python -m pytest -q -m "not slow and not gpu" -n $(CORES) --dist worksteal \
	  --cov mutineck --cov-report json:.junit/coverage.json
	@$(BIN)/python -m tests.reliability.coverage .junit/coverage.json

# Not a part of `make test`: it fails where there is no GPU.
gpu: env  ## on a machine with a GPU: what it computes beside the same on the CPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m gpu -n $(CORES) --durations 10 --junitxml .junit/gpu.xml

bench: env  ## time and memory beside references, an hour and a half (ONLY=losses runs one)
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ONLY)

fuzz: env  ## try to break the readers of annotations (MINUTES=10, SEEDS="FOLDER ..." with files to begin with)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.dataset.fuzz --minutes $(or $(MINUTES),10) --jobs $(CORES) --seeds $(SEEDS)

kills: env  ## end a smoke study with SIGKILL at random moments (COUNT=50), and compare it with one left alone
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.kills --count $(or $(COUNT),50) smoke --cores $(CORES)

soak: env  ## run smoke studies for hours (HOURS=1), and see that nothing grows
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.reliability.soak --hours $(or $(HOURS),1)

portable: env  ## run the study of `make run` as other processors would, and tell how far results lie apart (2 hours)
	$(BIN)/python -m tests.reliability.portable $(or $(EXPERIMENT:experiments/%.yaml=%),shapes)

docs:  ## build the documentation as a site, in a small environment of its own
	@$(PYTHON) -m venv .site/venv
	@.site/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes -r docs/requirements.txt
	@.site/venv/bin/mkdocs build --strict --quiet
	@echo "open .site/html/index.html"

reliability: env  ## write docs/reliability.md from the last test, fuzz, kills, soak, coverage and portable
	@$(BIN)/python -m tests.reliability.table $(wildcard .junit/*.xml)

doctor: env  ## what is wrong with this environment, and what to type
	@$(BIN)/python -m mutineck.doctor

rebuild:  ## throw the environment away and build it anew, compiled parts too
	@$(PYTHON) scripts/environment.py rebuild

prune: env  ## remove environments of other locks from the cache, 6 GB each
	@$(PYTHON) scripts/environment.py prune

clean:  ## remove what the tools left in the clone; outputs/ and data/ stay
	rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage* .fuzz .junit .kills .soak .portable .site .snakemake
	find mutineck tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +
