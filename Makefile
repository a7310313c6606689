# Two commands on a fresh machine: `make demo` and `make test`. Each sets up .venv by itself and reuses it.
PYTHON ?= python3

.PHONY: demo models models-qwen picture gpu gpu-requirements tables figures paper smoke test test-slow test-slurm test-browser chaos bench lint format clean

demo: models
	demo/demo.sh

# The demonstration's two language models, in models/.
models: .venv/installed
	.venv/bin/python demo/fetch_models.py

# Two models of one family, one tokenizer and three times the size: 1.6 GB to download, 4.8 GB in models/.
models-qwen: .venv/installed
	.venv/bin/python demo/fetch_models.py qwen2.5-coder-0.5b qwen2.5-coder-1.5b

# The README's picture, docs/difference.png: one text under the difference of the demonstration's models. A minute.
picture: models
	demo/picture.sh

# A table of conf/tables/ on this machine: 2 hours without its results, half a minute with them.
# GPU_JOBS: where there is a GPU, how many jobs may use it at once (docs/gpus.md).
TABLE ?= biographies_scratch
GPU_JOBS ?= 1
# NVIDIA's devices (the last under WSL), unless CUDA_VISIBLE_DEVICES says which to use, or none.
GPU ?= $(if $(filter undefined,$(origin CUDA_VISIBLE_DEVICES)),$(wildcard /dev/nvidia[0-9]* /usr/lib/wsl/lib/libcuda.so*),$(CUDA_VISIBLE_DEVICES))
AT_ONCE = --cores $(shell nproc) $(if $(strip $(GPU)),--resources gpu_jobs=$(GPU_JOBS))
tables: conf/tables/$(TABLE).yaml .venv/installed
	.venv/bin/snakemake --configfile conf/tables/$(TABLE).yaml $(AT_ONCE) --forcerun tables
	.venv/bin/python -m workflow.readme
	@echo Pictures: results/$(shell sed -n 's/^table: *//p' conf/tables/$(TABLE).yaml)/*.png

# The paper's Figures 1 to 3: an hour without results/figures/ (and the two models), seconds with it.
figures: .venv/installed
	.venv/bin/snakemake --configfile conf/figures.yaml $(AT_ONCE) --forcerun figures
	.venv/bin/python -m workflow.readme
	@echo Pictures: results/figures/*.png

# The paper's Tables 1 to 3, its numbers beside those of the tables paper_* that have been run, and its figures: under a
# minute. Runs that a finished one of these tables lacks are made again first.
paper: .venv/installed
	for table in $$(.venv/bin/python -m workflow.paper unfinished); do $(MAKE) tables TABLE=$$table || exit; done
	.venv/bin/python -m workflow.paper
	$(MAKE) figures

# A table of tiny random models: minutes.
smoke: .venv/installed
	.venv/bin/python -m tests.tiny
	.venv/bin/snakemake --configfile conf/tables/smoke.yaml $(AT_ONCE)

# All tests of a file run in one process, so that what they share is made once.
test: .venv/installed lint
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --durations 10

# The real models, and all architectures: minutes, and 330 MB to download.
test-slow: models
	.venv/bin/python -m pytest -m slow

# The smoke table through a Slurm of one node, which the test installs and starts (Debian, as root).
test-slurm: .venv/installed
	.venv/bin/python -m pytest -m slurm

# Heat maps in Chromium, which Debian's package brings (as root).
test-browser: .venv/installed
	command -v chromium || apt-get install --yes chromium
	.venv/bin/python -m pip install --requirement requirements-browser.txt
	.venv/bin/python -m pytest -m browser tests/test_browser.py

# Kills, full disks and the like in all five stages, and what is left of each: 5 minutes.
chaos: .venv/installed
	.venv/bin/python -m tests.chaos

# Correctness and speed on a GPU: some 8 minutes; the benchmark takes some 30 GB of GPU memory (benchmarks/README.md).
gpu: gpu-requirements
	.venv/bin/python -m pytest -m gpu -rs --numprocesses 8 --dist worksteal tests/test_gpu.py; tests=$$?; \
	.venv/bin/python benchmarks/gpu.py gpu_out/figures.json && exit $$tests

# Each stage beside the plain way (benchmarks/README.md); QUICK=1 for smaller inputs and fewer repeats.
bench: models
	.venv/bin/python -m benchmarks.bench $(if $(QUICK),--quick)

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

format: .venv/installed
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# What 8 and 4 bit need, on a GPU.
gpu-requirements: .venv/installed
	.venv/bin/python -m pip install --requirement requirements-gpu.txt

.venv/installed: requirements.txt requirements-tables.txt requirements-gpu.txt requirements-dev.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --requirement requirements-dev.txt
	touch $@

# Runs of tables that are not finished go too: commit them first (python -m workflow.results add TABLE).
clean:
	rm -rf .venv models demo_out gpu_out data_augmented tables_out .snakemake
