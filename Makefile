# make demo: install, train on the sample films, answer them, show where the pictures lie and how to review them
# make demo-slides: the same with sample slides, generated where they are missing
# make test: everything that must hold: style, types, import contract, tests
# make check: the same without the tests;  make bench: speed beside what one would run instead
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet -c constraints.txt

# what tests/parity/check.py can build, by the beginnings of the golden files' names
PARITY := mae_ thorax_ dino_ ibot_ self_vit_mil dsmil_ gated_abmil videomae_ sam

.PHONY: demo demo-slides test check bench clean

$(VENV)/core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) -e .[app,codecs]
	touch $@

$(VENV)/all: $(VENV)/core
	$(PIP) -e .[app,codecs,video,planes,bench,dev]
	touch $@

demo: $(VENV)/core
	$(BIN)/medvit train workflows/thorax_mae.yaml --resume auto
	$(BIN)/medvit predict runs/thorax_mae/best.ckpt sample_data/films -o out/films --resume
	@echo
	@echo "Findings: out/films/results.csv    Heat maps: out/films/cases/*/heat_*.png"
	@echo "Review them in a browser: $(BIN)/medvit review out/films"

sample_data/slides/cases.csv: | $(VENV)/core
	$(BIN)/python sample_data/make.py slides

demo-slides: $(VENV)/core sample_data/slides/cases.csv
	$(BIN)/medvit train workflows/self_vit_mil.yaml --resume auto
	$(BIN)/medvit predict runs/self_vit_mil/best.ckpt sample_data/slides -o out/slides --resume
	@echo
	@echo "Answers: out/slides/results.csv    Tiles for QuPath: out/slides/cases/*/tiles.geojson.gz"
	@echo "Review them in a browser: $(BIN)/medvit review out/slides"

check: $(VENV)/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/python tests/parity/check.py $(foreach kind,$(PARITY),$(wildcard ../shared/golden/$(kind)*.safetensors))
	$(BIN)/pytest

bench: $(VENV)/all
	$(BIN)/python tests/benchmarks/command_line.py
	$(BIN)/python tests/benchmarks/training_step.py

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
