# One line a target. Without make (Windows): README.md has the same steps.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
export PYTHONUTF8 := 1
# Compiled code is kept, whatever the shell says: a hundred processes import the package, and every run the tests.
export PYTHONDONTWRITEBYTECODE :=
# Threads that wait sleep: on a busy machine, spinning ones stall each other.
export OMP_WAIT_POLICY := PASSIVE
# A module stays in one process, the long ones go first (conftest.py), and the slowest tests are shown.
PARALLEL := -n $(WORKERS) --dist loadscope --no-loadscope-reorder --durations=25 --durations-min=1

# Apart from .venv: with Triton installed, PyTorch takes other paths, in chapters too.
TRITON := .cache/triton-3.9.0

.PHONY: book test helper chapters triton lab serve refresh check bench mutants drill slides pdf epub kit hub hub-try nbgrader-try

book: .venv/.stamp  ## execute every chapter, write _build/html/index.html
	$(BIN)/jupyter-book build . --all -n -W --keep-going

test: book  ## the helper's tests, what the book's build printed against what chapters store (nbval), the site in a browser
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(PARALLEL)

helper: .venv/.stamp  ## the helper's tests alone, without book and chapters
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(PARALLEL) tests --ignore=tests/site

chapters: .venv/.stamp  ## execute every chapter under nbval, with one thread and AVX2, whatever the book's build has run
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/pytest $(PARALLEL) -o chapter_runs= notebooks

triton: $(TRITON)  ## the Triton kernels under Triton's interpreter, on the CPU (fetches 0.3 GB, takes 1 GB in .cache)
	PYTHONPATH=$(TRITON) SANA_LAB_TRITON=1 $(BIN)/pytest tests/test_kernels_triton.py

$(TRITON): .venv/.stamp
	$(BIN)/pip install --quiet --no-deps --no-compile --target $@ triton==3.9.0 || { rm -rf $@; exit 1; }
	touch $@

lab: .venv/.stamp  ## JupyterLab on the chapters
	$(BIN)/jupyter trust notebooks/*.ipynb  # or else it shows no figures (image/svg+xml) before their cells run
	$(BIN)/jupyter lab notebooks

serve: book  ## the built book on http://localhost:8000
	$(BIN)/python -m http.server --directory _build/html 8000

refresh: .venv/.stamp  ## re-execute chapters, store outputs in canonical form; one: make refresh CHAPTER=notebooks/02_eight_bits_from_scratch.ipynb
	$(BIN)/python tools/chapters.py refresh $(CHAPTER)

check: .venv/.stamp  ## lint, the house's rules, public names, spelling, stored form of the chapters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python tools/architecture.py check
	$(BIN)/ty check --python .venv --error-on-warning tests/typed
	$(BIN)/codespell *.md *.txt *.toml *.yml Makefile book src tests tools teaching
	$(BIN)/python tools/chapters.py sources | $(BIN)/codespell -
	$(BIN)/python tools/chapters.py check

bench: .venv/.stamp  ## time the Shapes model on this machine, on two cores without AVX-512
	$(BIN)/python -m sana_lab.bench

mutants: .venv/.stamp  ## do the tests notice when one thing of a file changes: make mutants FILE=src/sana_lab/int8.py
	OMP_NUM_THREADS=1 ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(BIN)/python tools/mutants.py $(FILE)

drill: .venv/.stamp  ## break long commands on purpose: kills, full disks, damaged files; some: make drill CASES="kill evaluate --rounds 9"
	$(BIN)/python tools/drill.py $(CASES)

slides: .venv/.stamp  ## slides with speaker notes, made from the chapters, in _build/slides (takes reveal.js from npm)
	$(BIN)/python tools/slides.py _build/slides

pdf: book  ## the built book as one PDF, linked from its first page (wants Chromium, takes fonts from npm)
	$(BIN)/python tools/paper.py pdf

epub: book  ## the same for readers of books
	$(BIN)/python tools/paper.py epub

kit: .venv/.stamp  ## one folder for a class without a network, in .cache/kit, and tried without one
	$(BIN)/sana-lab learner .cache/learner
	$(BIN)/python tools/kit.py build .cache/kit $(KIT)
	$(BIN)/python tools/kit.py try .cache/kit

HUB := .cache/hub
hub: .venv/.stamp $(HUB)/.stamp  ## a JupyterHub for a class, as root: teaching/hub/README.md; accounts: make hub LEARNERS=names.txt
	$(BIN)/sana-lab learner .cache/learner
	$(HUB)/bin/python teaching/hub/start.py $(if $(LEARNERS),--learners $(LEARNERS))

hub-try: .venv/.stamp $(HUB)/.stamp  ## open a room and try it, as root: break in, restart, fill the disk, ten seats at once
	$(HUB)/bin/python teaching/hub/trials.py $(TRY)

NBGRADER := .cache/nbgrader
nbgrader-try: .venv/.stamp $(NBGRADER)/.stamp  ## hand out all chapters with nbgrader, let it mark three, solved and empty
	$(NBGRADER)/bin/python teaching/nbgrader/try_it.py $(TRY)

$(NBGRADER)/.stamp: teaching/nbgrader/requirements.txt
	$(PYTHON) -m venv $(NBGRADER)
	$(NBGRADER)/bin/pip install --quiet -r $<
	touch $@

$(HUB)/.stamp: teaching/hub/requirements.txt
	$(PYTHON) -m venv $(HUB)
	$(HUB)/bin/pip install --quiet -r $<
	npm install --silent --no-fund --no-audit --prefix $(HUB)/node configurable-http-proxy@5.3.0
	touch $@

.venv/.stamp: requirements.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -r requirements.txt
	touch $@
