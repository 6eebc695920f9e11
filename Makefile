# `make demo` and `make test` do all the set-up by themselves: a virtual environment in .venv, then pip.
PYTHON ?= python3
BIN := .venv/bin
DEMO := datasets/demo
WEIGHTS := runs/demo/checkpoint_best.pth
SEARCHED := runs/demo-search
SCENES := datasets/demo-scenes
PEOPLE := runs/demo-scenes

.PHONY: demo demo-altclip demo-search demo-scenes demo-pretrain $(DEMO) study verify-release bench test test-all drill fuzz lint clean

# One run of the main job on rendered pedestrians: data, training on two processes, evaluation, pictures.
# DEMO_FLAGS="--resume auto" resumes an earlier demo.
DEMO_FLAGS ?= output.overwrite=true
demo: $(DEMO)
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node=2 main.py --config config/demo.yaml $(DEMO_FLAGS)

# The same in four languages, with a small AltCLIP.
demo-altclip: $(DEMO)
	$(BIN)/python -m misc.tiny_altclip --out weights/tiny-altclip --width 96 --layers 2 --heads 3 \
		--embed-dim 512 --vocab-size 4000
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc_per_node=2 main.py --config config/demo-altclip.yaml $(DEMO_FLAGS)

# Search the demo's test images by description, in the browser; trains the demo first where it has not been.
demo-search: $(SEARCHED)/index/index.db .venv/ready
	$(BIN)/python -m misc.search serve $(SEARCHED)/index --annotations $(DEMO) --browse

$(SEARCHED)/index/index.db: $(WEIGHTS) | $(DEMO)
	rm -rf $(SEARCHED)
	mkdir -p $(SEARCHED)/imgs
	cd $(DEMO)/imgs && grep -o '"file_path": *"[^"]*"' ../test_reid_en.json | cut -d '"' -f 4 | \
		tar -cf - -T - | tar -xf - -C "$(CURDIR)/$(SEARCHED)/imgs"
	$(BIN)/python -m misc.search index $(WEIGHTS) $(SEARCHED)/imgs --out $(SEARCHED)/index

$(WEIGHTS):
	$(MAKE) demo

$(DEMO): .venv/ready
	$(BIN)/python -m data.synthetic --out $(DEMO) --identities 8800 --val-identities 100 --test-identities 100 --seed 1

# Search the people in drawn street photos and videos in the same way, found by OpenCV's detector.
demo-scenes: $(PEOPLE)/index/index.db .venv/ready
	$(BIN)/python -m misc.search serve $(PEOPLE)/index --browse

$(PEOPLE)/index/index.db: $(WEIGHTS) .venv/ready-people
	$(BIN)/python -m data.synthetic --out $(SCENES) --scenes 40 --videos 4 --seed 31
	rm -rf $(PEOPLE)
	$(BIN)/python -m misc.search index $(WEIGHTS) $(SCENES) --out $(PEOPLE)/index --people --exclude img1

# Recipes compared by fine-tuning one small pretrained model, on every core. A stopped study resumes.
# STUDY_FLAGS=--quick shows the shape of it in some minutes.
STUDY_FLAGS ?= --out docs
study: .venv/ready
	$(BIN)/python -m data.synthetic --out datasets/study/web --captions web --identities 24600 --val-identities 300 --test-identities 300 --images-per-identity 1 --seed 11
	$(BIN)/python -m data.synthetic --out datasets/study/mall --domain mall --identities 700 --val-identities 100 --test-identities 300 --images-per-identity 2 --seed 12
	$(BIN)/python -m data.synthetic --out datasets/study/campus --domain campus --identities 302 --val-identities 1 --test-identities 300 --images-per-identity 2 --seed 13
	$(BIN)/python -m data.synthetic --out datasets/study/street --identities 302 --val-identities 1 --test-identities 300 --images-per-identity 2 --seed 14
	$(BIN)/python -m misc.study $(STUDY_FLAGS)

# Pretraining from shards of drawn persons with noisy captions, fine-tuning from it and from random weights, and
# direct transfer: runs/demo-pretrain/study.md.
PRETRAINING := datasets/demo-pretrain
demo-pretrain: .venv/ready
	$(BIN)/python -m data.synthetic --out $(PRETRAINING)/web --captions web --identities 8400 --val-identities 200 --test-identities 200 --images-per-identity 1 --seed 21
	$(BIN)/python -m data.synthetic --out $(PRETRAINING)/mall --domain mall --identities 360 --val-identities 50 --test-identities 150 --images-per-identity 2 --seed 22
	$(BIN)/python -m data.synthetic --out $(PRETRAINING)/campus --domain campus --identities 152 --val-identities 1 --test-identities 150 --images-per-identity 2 --seed 23
	$(BIN)/python -m data.shards $(PRETRAINING)/web $(PRETRAINING)/web/imgs --out $(PRETRAINING)/shards --per-shard 1000
	$(BIN)/python -m misc.study --plan config/studies/demo-pretrain.yaml --runs runs/demo-pretrain --out runs/demo-pretrain
	@sed -n '/^## Direct/,$$p' runs/demo-pretrain/study.md

# Does a checkpoint that TBPS-CLIP released meet the published figures? CHECKPOINT=FILE, BENCHMARK is cuhk-pedes,
# icfg-pedes or rstpreid, RECIPE full or simplified; ANNOTATIONS and IMAGES where they are not as in config/.
RECIPE ?= full
verify-release: .venv/ready
	$(BIN)/python -m misc.verify_release --benchmark "$(BENCHMARK)" --checkpoint "$(CHECKPOINT)" --recipe $(RECIPE) \
		$(if $(ANNOTATIONS),--annotations "$(ANNOTATIONS)") $(if $(IMAGES),--images "$(IMAGES)")

# Time, memory and share of the machine's peak, part by part. BENCH_FLAGS="--only step --compare EARLIER.json"
BENCH_FLAGS ?=
bench: .venv/ready
	$(BIN)/python -m misc.benchmark $(BENCH_FLAGS)

# Two tests at a time, on a core each. `make test-all` runs those marked `slow` as well.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal
test: .venv/ready-dev
	$(TESTS) -m "not slow"

test-all: test
	$(TESTS) -m slow

# Damaged input of every kind: 2,000 in this process, 50 as processes of their own. Prints a table.
fuzz: .venv/ready-dev
	$(BIN)/python -W ignore -m tests.fuzz $(FUZZ_FLAGS)

# Faults of every kind done to real runs: kills, signals, a full disk, damaged files, NaN. Prints a table.
drill: .venv/ready-dev
	$(BIN)/python -m tests.drill $(DRILL_FLAGS)

lint: .venv/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

clean:
	rm -rf .venv runs/demo runs/demo-altclip runs/demo-pretrain $(PRETRAINING) $(SEARCHED) $(SCENES) $(PEOPLE) weights/tiny-altclip runs/study runs/study-quick datasets/study runs/bench $(DEMO)

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "error: Python 3.10 or newer is needed; name one with: make PYTHON=python3.12 ..." >&2; exit 2; }
	$(PYTHON) -m venv .venv

.venv/ready: requirements.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -r requirements.txt
	touch $@

.venv/ready-people: requirements-people.txt .venv/ready
	$(BIN)/python -m pip install --quiet -r requirements-people.txt
	touch $@

.venv/ready-dev: requirements-dev.txt requirements-people.txt .venv/ready
	$(BIN)/python -m pip install --quiet -r requirements-dev.txt
	touch $@
