# ponder.c: `make` lists the targets. Needs make and a C compiler; everything else is optional.

CC ?= cc
B ?= build
# Build on every core, unless -j was given.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(shell nproc 2>/dev/null || echo 1)
endif
CFLAGS ?= -O3
WARN = -Wall -Wextra -Wno-missing-field-initializers -Wno-unused-function $(if $(WERROR),-Werror)
# No fast math, no contraction: every machine computes the same bits, and NaN stays visible.
RULES = -std=gnu11 -ffp-contract=off -fno-math-errno
LIBS = -lm

# OpenMP where the compiler has it; without, everything works on one thread.
OPENMP := $(shell echo 'int main(void){return 0;}' | $(CC) -fopenmp -x c -o /dev/null - 2>/dev/null && echo -fopenmp)
NO_OPENMP_NOTE = $(if $(OPENMP),,-Wno-unknown-pragmas)

# One binary holds the program once per instruction set; common/dispatch.c picks at run time.
ISAS := portable $(if $(filter x86_64 amd64,$(shell uname -m)),avx2 avx512)
ISA_portable =
ISA_avx2 = -mavx2 -mfma
ISA_avx512 = -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mavx2 -mprefer-vector-width=512

COMPILE = $(CC) -x c $(RULES) $(CFLAGS) $(OPENMP) $(WARN) $(NO_OPENMP_NOTE) -I$(B) -MMD -MP
LINK = $(CC) $(CFLAGS) $(OPENMP)

help: ## list the targets
	@echo "make TARGET [STEPS=n] [OUT=dir] [ARGS=\"--option ...\"]"
	@grep -hE '^[a-z][a-z_-]*:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/' | awk -F'\t' '{ printf "  %-24s %s\n", $$1, $$2 }'
.PHONY: help

# $(call program,name,source,flags): build/name from source, for every instruction set.
define program
$(B)/$(1): $(foreach i,$(ISAS),$(B)/$(1).$(i).o) $(B)/dispatch.o
	$$(LINK) -o $$@ $$^ $$(LIBS)
$(foreach i,$(ISAS),$(eval $(call object,$(1),$(2),$(3),$(i))))
endef
define object
$(B)/$(1).$(4).o: $(2) $(B)/modeling_ponder.h
	$$(COMPILE) $$(ISA_$(4)) $(3) -DMAIN=main_$(4) -c -o $$@ $$<
endef
# $(call tool,name,source): a program that computes nothing heavy, compiled once.
define tool
$(B)/$(1): $(2) | $(B)
	$$(COMPILE) -o $$@ $$< $$(LIBS)
endef

$(B):
	mkdir -p $(B)
$(B)/dispatch.o: common/dispatch.c | $(B)
	$(COMPILE) $(addprefix -DHAVE_,$(ISAS)) -c -o $@ $<
# The Python class that a checkpoint carries, as a C string: a binary writes it wherever it runs.
$(B)/modeling_ponder.h: dev/modeling_ponder.py | $(B)
	( echo 'static const char modeling_ponder_py[] ='; sed 's/\\/\\\\/g; s/"/\\"/g; s/^/    "/; s/$$/\\n"/' $<; echo '    ;' ) > $@.tmp && mv $@.tmp $@

$(eval $(call program,train_pythia,train_pythia.cu,))
$(eval $(call program,bench_cpu,dev/bench_cpu.c,))
$(eval $(call program,bench_step,dev/bench_step.c,))
$(eval $(call tool,bytes,data/bytes.c))
$(eval $(call tool,compare,dev/compare.c))

# ---- the main job ----

train_pythia: $(B)/train_pythia ## build the CPU trainer, build/train_pythia
.PHONY: train_pythia

DATA ?= data/headers
data: $(DATA)/train.bin ## make the default corpus: this system's C headers, as bytes
$(DATA)/train.bin: | $(B)/bytes
	$(B)/bytes --compiler "$(CC)" --out-train $(DATA)/train.bin --out-val $(DATA)/val.bin
.PHONY: data

# The model and the run of the main job: chosen by the sweep that dev/LOG.md records. All three
# rows of the comparison share everything but the options that make them what they are, and the
# learning rate, which is each row's own best.
STEPS ?= 2000
SEED ?= 42
MAIN_MODEL = --model pythia-14m --layers 4 --width 64 --heads 2 --vocab 257
MAIN_RUN = --train "$(DATA)/train.bin" --val "$(DATA)/val.bin" --seq 256 --batch 4 --steps $(STEPS) --seed $(SEED) \
    --val-every 100 --val-batches 40 --save-every 500 --sample-every 500 --resume
ROW_ponder = --ponder 3 --lr 4e-3
ROW_vanilla = --ponder 0 --lr 4e-3
ROW_fair = --ponder 0 --scale-embeds 1 --init ponder --lr 4e-3
# $(call main_job,row,directory)
main_job = $(B)/train_pythia $(MAIN_MODEL) $(MAIN_RUN) $(ROW_$(1)) --out "$(2)" $(ARGS)

train_pythia_ponder: $(B)/train_pythia $(B)/compare $(DATA)/train.bin ## THE MAIN JOB: train a pondering Pythia (S = 3)
	$(call main_job,ponder,$(or $(OUT),out/pythia_ponder))
	@$(call plot,$(or $(OUT),out/pythia_ponder))
train_pythia_vanilla: $(B)/train_pythia $(B)/compare $(DATA)/train.bin ## its baseline as published (S = 0, stock initialisation)
	$(call main_job,vanilla,$(or $(OUT),out/pythia_vanilla))
	@$(call plot,$(or $(OUT),out/pythia_vanilla))
train_pythia_fair: $(B)/train_pythia $(B)/compare $(DATA)/train.bin ## the baseline with pondering's initialisation and scaling
	$(call main_job,fair,$(or $(OUT),out/pythia_fair))
	@$(call plot,$(or $(OUT),out/pythia_fair))
.PHONY: train_pythia_ponder train_pythia_vanilla train_pythia_fair

plot = $(B)/compare --svg "$(1)/curves.svg" "$(notdir $(1))=$(1)" >/dev/null && echo "curves     $(1)/curves.svg"

COMPARE = $(or $(OUT),out)
compare: $(B)/train_pythia $(B)/compare $(DATA)/train.bin ## train all three on the same data, steps and seed; table and picture
	$(call main_job,vanilla,$(COMPARE)/pythia_vanilla)
	$(call main_job,fair,$(COMPARE)/pythia_fair)
	$(call main_job,ponder,$(COMPARE)/pythia_ponder)
	$(B)/compare --svg "$(COMPARE)/compare.svg" --table "$(COMPARE)/compare.md" --title "Pythia on C headers" \
	    "pondering=$(COMPARE)/pythia_ponder" "vanilla=$(COMPARE)/pythia_vanilla" "fair vanilla=$(COMPARE)/pythia_fair"
.PHONY: compare

# ---- tests ----

# Tests of arithmetic run in the best instruction set of this machine; that all give the same bits
# is seen in build/train_pythia, which holds every one, and by hashes in the portable tests.
HAS = $(shell grep -qsw $(1) /proc/cpuinfo && echo 1)
NATIVE := $(if $(filter avx2,$(ISAS)),$(if $(call HAS,avx512bw),avx512,$(if $(call HAS,fma),avx2,portable)),portable)
# $(call test,name,source,flags,instruction set)
define test
$(B)/$(1): $(2) $(B)/modeling_ponder.h
	$$(COMPILE) $$(ISA_$(4)) -g1 -DTESTING -DMAIN=main -DBUILD_DIR='"$(B)"' $(3) -o $$@ $$< $$(LIBS)
endef
$(eval $(call test,test_common,test_common.c,,$(NATIVE)))
$(eval $(call test,test_portable,test_common.c,-DARITHMETIC,portable))
$(eval $(call test,test_ponder,test_ponder.c,-DMIX_ROWS=8,$(NATIVE)))
$(eval $(call test,test_ponder_double,test_ponder.c,-DMIX_ROWS=8 -DREAL=double,portable))
$(eval $(call test,test_pythia,test_pythia.c,,$(NATIVE)))
$(eval $(call test,test_pythia_double,test_pythia.c,-DMIX_ROWS=8 -DREAL=double,portable))
TESTS = $(addprefix $(B)/,test_common test_portable test_ponder test_ponder_double test_pythia_double test_pythia)

test: $(TESTS) $(B)/train_pythia $(B)/bytes $(B)/compare ## every test that a bare machine can run (two minutes)
	@dev/run_tests.sh $(TESTS)
	@echo "not run here: make test-sanitize (ASan, UBSan), make test-all (checkpoints in transformers; needs Python and a network)" >&2
test-sanitize: ## the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@ASAN_OPTIONS=detect_leaks=0 $(MAKE) --no-print-directory B=$(B)/sanitize ISAS="$(NATIVE)" \
	    CFLAGS="-O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all" test
.PHONY: test test-sanitize

VENV = build/venv
PYTHON = PYTHONDONTWRITEBYTECODE=1 $(VENV)/bin/python
venv: ## the Python environment of the checks against PyTorch, build/venv (560 MB from the network)
	dev/setup_venv.sh
test-all: test test-sanitize test-fuzz test-transformers ## those, fuzzers for every parser, checkpoints in transformers (network)
test-fuzz: $(B)/fuzz ## 20 seconds of damaged files for every parser, under the sanitizers
	$(B)/fuzz 20
test-transformers: $(B)/train_pythia venv ## our checkpoints in two versions of transformers, our PyTorch twin and the fixtures
	$(PYTHON) dev/ref/check_fixtures.py
	$(PYTHON) dev/check_transformers.py --fixtures --binary $(B)/train_pythia
	PYTHONPATH=$(VENV)/transformers-old $(PYTHON) dev/check_transformers.py --fixtures --binary $(B)/train_pythia
$(B)/fuzz: dev/fuzz.c | $(B)
	$(CC) -std=gnu11 -g -O1 -fsanitize=address,undefined -fno-sanitize-recover -DFUZZ_MAIN -MMD -MP -o $@ $< $(LIBS)
fixtures: venv ## make dev/fixtures anew with our PyTorch twin
	$(PYTHON) dev/ref/make_fixtures.py
.PHONY: venv test-all test-fuzz test-transformers fixtures

bench-cpu: $(B)/bench_cpu $(B)/bench_step ## speed beside this machine's limits, and PyTorch's where build/venv has it
	$(B)/bench_cpu
	$(B)/bench_step pythia-160m 0 4 64
	$(B)/bench_step pythia-70m 3 2 256
	@if [ -x $(VENV)/bin/python ]; then $(PYTHON) dev/bench_torch.py; \
	    else echo "PyTorch beside it: dev/setup_venv.sh first"; fi
.PHONY: bench-cpu

lint: $(B)/modeling_ponder.h ## the rules of the code
	@CC="$(CC)" B="$(B)" dev/lint.sh
.PHONY: lint

clean: ## remove build/ (trained models in out/ and data stay)
	rm -rf $(B)
.PHONY: clean

-include $(wildcard $(B)/*.d)
