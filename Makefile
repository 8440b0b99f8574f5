# ponder.c: `make` lists the targets. Needs make and a C compiler; everything else is optional.

# Every train_X.cu is an architecture; what follows is written for any of them. MODEL names the one that `make
# compare` and the checks of a single trainer take. What knows nothing of layers is tested with the first of the list
# alone; WHOLE="pythia gpt2 llama" names others that take all tests too.
ARCHITECTURES = pythia gpt2 llama
FIRST = $(firstword $(ARCHITECTURES))
MODEL ?= $(FIRST)
WHOLE ?= $(FIRST)
ifneq ($(filter compare test test-sanitize test-all,$(MAKECMDGOALS)),)
ifneq ($(filter $(ARCHITECTURES),$(MODEL))/$(words $(MODEL)),$(MODEL)/1)
$(error MODEL=$(MODEL): expected one of $(ARCHITECTURES))
endif
endif

CC ?= cc
B ?= build
# Paths. make takes one with a blank for two, where it is a target; in recipes they stand between double quotes.
$(if $(word 2,$(B)),$(error B=$(B): expected a path without blanks))
$(foreach v,B DATA OUT TRAIN VAL TOKENIZER VAL_SHARE,$(foreach c," ` \ $$,$(if $(findstring $(c),$($(v))),$(error $(v)=$($(v)): expected a path without \
    quotes, backslashes and dollar signs))))
PROCESSORS := $(shell nproc 2>/dev/null || echo 1)
# Build on every core, unless -j was given.
ifeq ($(MAKELEVEL)$(filter -j%,$(MAKEFLAGS)),0)
MAKEFLAGS += -j$(PROCESSORS)
endif
CFLAGS ?= -O3
WARN = -Wall -Wextra -Wno-missing-field-initializers -Wno-unused-function $(if $(WERROR),-Werror)
# No fast math, no contraction: every machine computes the same bits, and NaN stays visible.
RULES = -std=gnu11 -ffp-contract=off -fno-math-errno
LIBS = -lm -pthread

# OpenMP where the compiler has it; without, everything works on one thread.
OPENMP := $(shell echo 'int main(void){return 0;}' | $(CC) -fopenmp -x c -o /dev/null - 2>/dev/null && echo -fopenmp)
NO_OPENMP_NOTE = $(if $(OPENMP),,-Wno-unknown-pragmas)

# One binary holds the program once per instruction set; common/run/dispatch.c picks at run time.
ISAS := portable $(if $(filter x86_64 amd64,$(shell uname -m)),avx2 avx512)
ISA_portable =
ISA_avx2 = -mavx2 -mfma
ISA_avx512 = -mavx512f -mavx512vl -mavx512bw -mavx512dq -mfma -mavx2 -mprefer-vector-width=512 $(BF16_INSTRUCTIONS)
# Two instructions on bf16 that not every compiler and assembler knows; asked once, where it matters.
BF16_TEST = \#include <immintrin.h>\n__attribute__((target("avx512bf16"))) __m512 f(__m512 c, __m512bh a) { return _mm512_dpbf16_ps(c, a, a); }\n\
    __attribute__((target("amx-tile,amx-bf16"))) void g(void) { _tile_zero(0); _tile_dpbf16ps(0, 1, 2); _tile_release(); }\n
BF16_INSTRUCTIONS = $(eval BF16_INSTRUCTIONS := $(shell printf '$(BF16_TEST)' | $(CC) -mavx512f -x c -c -o /dev/null - 2>/dev/null && \
    echo -DHAVE_BF16_INSTRUCTIONS))$(BF16_INSTRUCTIONS)

COMPILE = $(CC) -x c $(RULES) $(CFLAGS) $(OPENMP) $(WARN) $(NO_OPENMP_NOTE) -I$(B)/include -MMD -MP
LINK = $(CC) $(CFLAGS) $(OPENMP)

help: ## list the targets
	@echo "make TARGET [STEPS=n] [OUT=dir] [ARGS=\"--option ...\"]"
	@grep -hE '^[a-z][a-z0-9_-]*(\$$\(1\)[a-z_]*)?:.*##' $(firstword $(MAKEFILE_LIST)) | sed -E 's/:.*## /\t/; s/\$$\(1\)/MODEL/g' | awk -F'\t' '{ printf "  %-24s %s\n", $$1, $$2 }'
	@echo "MODEL is one of: $(ARCHITECTURES)"
.PHONY: help

# And once more where layers store bf16 (--precision bf16), but not for x86 without AVX2. An object takes gcc 12 18 s of a
# processor: a trainer 90 s instead of 54. At -O2 it would be 11 s, and a step twice as long.
BF16_ISAS := $(or $(filter-out portable,$(ISAS)),$(ISAS))
# Sanitizers look at the first architecture: the others have the same common/, and their layers under them in fp32.
IN_BF16 = -DKEPT=Bf16 $(if $(filter $(1),$(FIRST)),,-fno-sanitize=all)

# $(call program,name,source,flags,bf16's flags): build/name from source, for every instruction set; with the latter, in
# bf16 too.
define program
$(B)/$(1): $(foreach i,$(ISAS),$(B)/$(1).$(i).o) $(foreach i,$(if $(4),$(BF16_ISAS)),$(B)/$(1).$(i)_bf16.o) $(B)/dispatch$(if $(4),_bf16).o
	$$(LINK) -o $$@ $$^ $$(LIBS)
$(foreach i,$(ISAS),$(eval $(call object,$(1),$(2),$(3),$(i))))
$(foreach i,$(if $(4),$(BF16_ISAS)),$(eval $(call object,$(1),$(2),$(3) $(4),$(i),_bf16)))
endef
define object
$(B)/$(1).$(4)$(5).o: $(2) $(B)/include/modeling_ponder.h
	$$(COMPILE) $$(ISA_$(4)) $(3) -DMAIN=main_$(4)$(5) -c -o $$@ $$<
endef
# $(call tool,name,source): a program that computes nothing heavy, compiled once.
define tool
$(B)/$(1): $(2) | $(B)
	$$(COMPILE) -o $$@ $$< $$(LIBS)
endef

$(B):
	mkdir -p $(B)
DISPATCH = $(COMPILE) $(addprefix -DHAVE_,$(ISAS))
$(B)/dispatch.o: common/run/dispatch.c | $(B)
	$(DISPATCH) -c -o $@ $<
$(B)/dispatch_bf16.o: common/run/dispatch.c | $(B)
	$(DISPATCH) $(BF16_ISAS:%=-DHAVE_%_bf16) -c -o $@ $<
# The Python class that a checkpoint carries, as a C string: a binary writes it wherever it runs.
$(B)/include/modeling_ponder.h: modeling_ponder.py
	@mkdir -p $(@D)
	( echo 'static const char modeling_ponder_py[] ='; sed 's/\\/\\\\/g; s/"/\\"/g; s/^/    "/; s/$$/\\n"/' $<; echo '    ;' ) > $@.tmp && mv $@.tmp $@

# The trainer that a benchmark is built for (dev/architecture.h).
of_trainer = -I. -DARCHITECTURE=$(1) -DTRAINER='"train_$(1).cu"'
$(foreach a,$(ARCHITECTURES),$(eval $(call program,train_$(a),train_$(a).cu,,$(call IN_BF16,$(a)))))
$(foreach a,$(ARCHITECTURES),$(eval $(call program,bench_step_$(a),dev/bench_step.c,$(call of_trainer,$(a)),$(call IN_BF16,$(a)))))
$(eval $(call program,bench_cpu,dev/bench_cpu.c,))
$(eval $(call tool,bytes,data/bytes.c))
$(eval $(call tool,tokens,data/tokens.c))
$(eval $(call tool,compare,common/run/compare.c))

# ---- which trainer ----

NVCC ?= $(firstword $(wildcard $(shell command -v nvcc 2>/dev/null) /usr/local/cuda/bin/nvcc))
# Compute capability of the GPU that a program takes, 90 for 9.0; empty where there is none.
GPU_SM := $(shell dev/gpu_sm.sh)
# The main job computes on the GPU where there is one and nvcc to build for it; DEVICE=cpu or gpu says otherwise.
GPU_NEW := $(shell [ "$(or $(GPU_SM),0)" -ge 80 ] && echo 1)
DEVICE ?= $(if $(and $(GPU_NEW),$(NVCC)),gpu,cpu)
ifeq ($(filter-out cpu gpu,$(DEVICE))$(words $(DEVICE)),1)
else
$(error DEVICE=$(DEVICE): expected cpu or gpu, or none: then the main job computes on the GPU where there is one)
endif
WHY_CPU = $(if $(GPU_SM),$(if $(GPU_NEW),there is a GPU but no nvcc,the GPU is older than compute capability 8.0),$(NO_GPU))
NO_GPU = $(if $(shell command -v nvidia-smi 2>/dev/null),nvidia-smi finds no GPU,no GPU here)
trainer = $(B)/train_$(1)$(if $(filter gpu,$(DEVICE)),_cuda)
say_trainer = @echo "trainer: $(call trainer,$(1)), on the $(if $(filter gpu,$(DEVICE)),GPU,CPU ($(if $(filter command% environment,$(origin DEVICE)),as asked,$(WHY_CPU))))"

# ---- the main job ----

# DATA is a directory with shards (data/headers, which is made), or text files, which become one in data/texts.
DATA ?= data/headers
DATA_GIVEN := $(filter command% environment%,$(origin DATA))
TEXTS := $(if $(wildcard $(firstword $(DATA))/.),,$(wildcard $(DATA)))
ifneq ($(TEXTS),)
$(foreach t,$(DATA),$(if $(wildcard $(t)),,$(error DATA: expected text files, found no $(t))))
$(foreach t,$(TEXTS),$(if $(wildcard $(t)/.),$(error DATA: expected text files, found the directory $(t))))
$(foreach c,: %,$(if $(findstring $(c),$(TEXTS)),$(error DATA=$(DATA): expected text files without $(c) in their names)))
else
$(if $(word 2,$(DATA)),$(error DATA=$(DATA): expected a path without blanks, or text files that are there))
endif
# The tokenizer of the texts (bytes without one), which --tokenizer in ARGS names too.
TOKENIZER ?= $(if $(findstring --tokenizer,$(ARGS)),$(shell set -- $(ARGS); while [ $$# -gt 0 ]; do \
    case $$1 in (--tokenizer=*) t=$${1#*=} ;; (--tokenizer) t=$$2 ;; esac; shift; done; echo "$$t"))
TOKENIZER := $(TOKENIZER)
$(if $(word 2,$(TOKENIZER)),$(error TOKENIZER=$(TOKENIZER): expected a path without blanks))
$(if $(DATA_GIVEN),,$(if $(TOKENIZER),$(error TOKENIZER=$(TOKENIZER): expected text files beside it, DATA="FILE...", or a directory \
    with its shards; the C headers are read as bytes)))
VAL_SHARE ?= 0.1
ifneq ($(TEXTS),)
override DATA := data/texts/$(basename $(notdir $(firstword $(TEXTS))))$(if $(word 2,$(TEXTS)),_and_more)-$(shell \
    printf '%s\n' $(TEXTS:%="%") "$(VAL_SHARE)" "$(TOKENIZER)" | cksum | cut -d' ' -f1)
endif
# What a script of data/ has made: many shards, and the tokenizer. One that did not end has left a part of them.
unfinished = $(if $(wildcard $(1)/manifest.json),,$(wildcard $(1)/progress.json))
$(if $(call unfinished,$(DATA)),$(error DATA=$(DATA): expected all shards of a corpus, found those of a run that did not end \
    (progress.json, no manifest.json); the command that began them, build/venv/bin/python data/NAME.py --out $(DATA), goes on there))
CORPUS := $(wildcard $(DATA)/train_000000.bin)
ifneq ($(CORPUS),)
TOKENIZER := $(or $(TOKENIZER),$(wildcard $(DATA)/tokenizer))
endif
# $(call shards,train): what the trainers read of DATA
shards = $(DATA)/$(1)$(if $(CORPUS),_*).bin
DATA_MADE = $(if $(CORPUS),,$(DATA)/train.bin)

# train.bin stands for both shards: it is made again where val.bin is missing. Not in a directory of the user's, where
# the other one would be overwritten.
NO_VAL := $(if $(wildcard $(DATA)/val.bin),,no_val)
HALF := $(if $(and $(DATA_GIVEN),$(if $(TEXTS),,1)),$(filter 1,$(words $(wildcard $(DATA)/train.bin $(DATA)/val.bin))))
data: $(DATA_MADE) ## make the default corpus: this system's C headers, as bytes
ifeq ($(TEXTS),)
$(DATA)/train.bin: $(NO_VAL) | $(B)/bytes
	$(if $(HALF),$(error DATA=$(DATA): expected train.bin and val.bin there, or neither, found $(wildcard $(DATA)/*.bin); \
	    make both with build/bytes --out-train $(DATA)/train.bin --out-val $(DATA)/val.bin FILE|DIR...))
	$(B)/bytes --compiler "$(CC)" --out-train $(DATA)/train.bin --out-val $(DATA)/val.bin
else
# Split as bytes, by build/bytes; a tokenizer then makes its tokens of both parts. The bytes lie in a directory of this
# process's own, since another make may be doing the same; those of processes that have ended, by a kill, are removed.
$(DATA)/train.bin: $(NO_VAL) $(TEXTS) $(if $(TOKENIZER),$(wildcard $(TOKENIZER) $(TOKENIZER)/*)) | $(B)/bytes $(B)/tokens
ifeq ($(TOKENIZER),)
	$(call split_bytes,$(DATA))
else
	@for old in "$(DATA)"/bytes.*; do kill -0 "$${old##*.}" 2>/dev/null || rm -rf "$$old"; done
	bytes="$(DATA)/bytes.$$$$"; trap 'rm -rf "$$bytes"' EXIT; trap 'exit 1' HUP INT TERM; \
	    $(call split_bytes,$$bytes) && \
	    $(B)/tokens --tokenizer "$(TOKENIZER)" --bytes 1 --out "$(DATA)/val.bin" "$$bytes/val.bin" && \
	    $(B)/tokens --tokenizer "$(TOKENIZER)" --bytes 1 --out "$(DATA)/train.bin" "$$bytes/train.bin"
endif
split_bytes = $(B)/bytes --val-share "$(VAL_SHARE)" --out-train "$(1)/train.bin" --out-val "$(1)/val.bin" -- $(TEXTS:%="%")
endif
no_val:
.PHONY: data no_val

# The model and the run of the main job: Pythia's were chosen by the sweep that dev/LOG.md records; GPT-2's and LLaMA's
# are of its size. All three rows of a comparison share everything but the options that make them what they are, and the
# learning rate, which is each row's own best. What ARGS says of the length of the run counts instead of STEPS.
STEPS ?= 2000
SEED ?= 42
LENGTHS = --steps --steps=% --flops --flops=% --epochs --epochs=%
LENGTH = $(if $(filter $(LENGTHS),$(ARGS)),,--steps $(STEPS))
MAIN_RUN = --train "$(call shards,train)" --val "$(call shards,val)" --seq 256 --batch 4 --val-every 100 --val-batches 40 \
    --save-every 500 --sample-every 500
TITLE_pythia = Pythia
MAIN_pythia = --model pythia-14m --layers 4 --width 64 --heads 2 --vocab 257
ROW_pythia_ponder = --ponder 3 --lr 4e-3
ROW_pythia_vanilla = --ponder 0 --lr 4e-3
ROW_pythia_fair = --ponder 0 --scale-embeds 1 --init ponder --lr 4e-3
TITLE_gpt2 = GPT-2
MAIN_gpt2 = --model gpt2 --layers 4 --width 64 --heads 2 --vocab 257
ROW_gpt2_ponder = --ponder 3 --lr 4e-3
ROW_gpt2_vanilla = --ponder 0 --lr 4e-3
ROW_gpt2_fair = --ponder 0 --scale-embeds 1 --init ponder --lr 4e-3
TITLE_llama = LLaMA
MAIN_llama = --model llama-405m --layers 4 --width 64 --heads 2 --kv-heads 1 --vocab 257
ROW_llama_ponder = --ponder 3 --lr 4e-3
ROW_llama_vanilla = --ponder 0 --lr 2e-3
ROW_llama_fair = --ponder 0 --scale-embeds 1 --init ponder --lr 4e-3
# A tokenizer of its own has more tokens than the 257 of bytes.
count_vocabulary = $(if $(TOKENIZER),vocabulary=$$("$(B)/tokens" --tokenizer "$(TOKENIZER)" --count 1) && )
OF_TOKENIZER = $(if $(TOKENIZER),--vocab $$vocabulary --tokenizer "$(TOKENIZER)")
# $(call main_job,architecture,row,length and seed,directory)
main_job = $(count_vocabulary)$(call trainer,$(1)) $(MAIN_$(1)) $(OF_TOKENIZER) $(MAIN_RUN) $(3) $(ROW_$(1)_$(2)) --out "$(4)" $(ARGS)
# Of other data than the C headers; where runs go that say no OUT.
DATA_NAME := $(if $(filter-out data/headers,$(DATA)),$(notdir $(DATA:%/=%)))
# $(call job_out,architecture,row)
job_out = $(or $(OUT),out/$(1)_$(2)$(DATA_NAME:%=_%))
# build/compare takes NAME=DIR,DIR: it is called in the directory, whose name may hold what separates them.
plot = name=$$(basename -- "$(1)" | sed "s/[=,]/ /g; s/^-/ -/") && compare=$$(cd "$(B)" && pwd)/compare && (cd -- "$(1)" && \
    "$$compare" --svg curves.svg "$$name=." >/dev/null) && echo "curves     $(1)/curves.svg"
# $(call row,architecture,row): one of the three as a target of its own
define row
	$$(call say_trainer,$(1))
	$$(call say_quick,$(1),$(2))
	$$(call $$(if $$(call is_quick,$(1)),quick_job,main_job),$(1),$(2),$$(LENGTH) --seed $$(SEED) --resume,$$(call job_out,$(1),$(2)))
	@$$(call plot,$$(if $$(call is_quick,$(1)),$$(call quick_out,$(2)),$$(call job_out,$(1),$(2))))
endef

# The reference's quick start, pythia-70m on MiniPile in GPT-NeoX's tokens, is what the Pythias train where data/minipile has
# the shards and a GPU has the memory for it. QUICK=1 asks for it elsewhere, QUICK=0 for the small model.
# (Where they are not all there yet, its recipe says so.)
MINIPILE := $(wildcard data/minipile/train_000000.bin) $(call unfinished,data/minipile)
GPU_MEMORY = $(if $(filter gpu,$(DEVICE)),$(shell dev/gpu_sm.sh memory),0)
QUICK ?= $(if $(and $(strip $(MINIPILE)),$(if $(DATA_GIVEN),,1)),$(shell [ "$(or $(GPU_MEMORY),0)" -ge 16000 ] && echo 1 || echo no),0)
QUICK := $(QUICK)
is_quick = $(and $(filter pythia,$(1)),$(filter 1,$(QUICK)))
quick_out = $(or $(OUT),out/minipile_$(1))
quick_job = TRAINER=$(call trainer,$(1)) dev/recipes/minipile.sh $(2) --seed $(SEED) $(if $(filter-out file undefined,$(origin STEPS)),$(LENGTH)) \
    --out "$(call quick_out,$(2))" $(ARGS)
# EFLOP of an epoch, by dev/recipes/minipile.sh --plan; a processor does about 75 GFLOP/s of such a step.
QUICK_WORK_ponder = 2.52
QUICK_WORK_vanilla = 0.456
QUICK_WORK_fair = 0.456
quick_here = $(if $(filter gpu,$(DEVICE)),this GPU has $(GPU_MEMORY) MB and it needs 15 GB with its 8 rows,about $(shell \
    awk 'BEGIN { printf "%.0f", $(QUICK_WORK_$(1)) * 1e18 / 75e9 / $(PROCESSORS) / 86400 }') days on the $(PROCESSORS) processors here)
quick_text = data/minipile: the quick start of the reference on it would be $(QUICK_WORK_$(1)) EFLOP, $(call quick_here,$(1)); QUICK=1 \
    begins it. This is the small model, on the C headers
say_quick = $(if $(and $(filter pythia,$(1)),$(filter no,$(QUICK))),@echo "$(call quick_text,$(2))")

# What a job needs beside programs: its data, and build/tokens to count a vocabulary.
job_needs = $(if $(call is_quick,$(1)),,$(DATA_MADE)) $(if $(TOKENIZER),$(B)/tokens)
define jobs
train_$(1): $(B)/train_$(1) ## build the CPU trainer, build/train_MODEL
train_$(1)_ponder: $(call trainer,$(1)) $(B)/compare $$(call job_needs,$(1)) ## THE MAIN JOB: train a pondering model (S = 3)
$(call row,$(1),ponder)
train_$(1)_vanilla: $(call trainer,$(1)) $(B)/compare $$(call job_needs,$(1)) ## its baseline as published (S = 0, stock initialisation)
$(call row,$(1),vanilla)
train_$(1)_fair: $(call trainer,$(1)) $(B)/compare $$(call job_needs,$(1)) ## the baseline with pondering's initialisation and scaling
$(call row,$(1),fair)
.PHONY: train_$(1) train_$(1)_ponder train_$(1)_vanilla train_$(1)_fair
endef
$(foreach a,$(ARCHITECTURES),$(eval $(call jobs,$(a))))

# llm.c's own job, GPT-2 124M on the shards of TRAIN and VAL, with the settings of its scripts/run_gpt2_124M.sh: 524,288
# tokens a step, once through the data (18,865 steps of FineWeb's ten billion tokens) unless STEPS or ARGS says
# otherwise, 10,485,760 tokens a validation on one GPU (--val-batches counts for each rank: of eight GPUs 160). The rows of a micro-batch, there 64 on each of eight GPUs, are the card's.
LENGTH_124M = $(if $(filter file undefined,$(origin STEPS)),,$(LENGTH))
JOB_124M = --model gpt2 --ponder 0 --seq 1024 --total-batch 524288 --lr 6e-4 --schedule cosine --min-lr-ratio 0 \
    --warmup-steps 700 --weight-decay 0.1 --beta1 0.9 --beta2 0.95 --eps 1e-8 --clip 1.0 --val-every 250 --val-batches 1280 \
    --save-every 5000 --sample-every 20000 --sample-tokens 144
train_gpt2_124m: need_shards $(call trainer,gpt2) $(B)/compare ## llm.c's GPT-2 124M with its settings: TRAIN="GLOB" VAL="GLOB", token shards
	$(call say_trainer,gpt2)
	$(call trainer,gpt2) $(JOB_124M) --train "$(TRAIN)" --val "$(VAL)" $(LENGTH_124M) --seed $(SEED) --resume \
	    --out "$(or $(OUT),out/gpt2_124m)" $(ARGS)
	@$(call plot,$(or $(OUT),out/gpt2_124m))
need_shards:
	@[ -n "$(TRAIN)" ] && [ -n "$(VAL)" ] || { echo "error: make train_gpt2_124m needs the token shards to train on and to" \
	    "validate on, in llm.c's format and GPT-2's tokens; found TRAIN=\"$(TRAIN)\" VAL=\"$(VAL)\", expected for instance" \
	    "TRAIN=\"fineweb10B/fineweb_train_*.bin\" VAL=\"fineweb10B/fineweb_val_*.bin\"" >&2; exit 1; }
.PHONY: train_gpt2_124m need_shards

# Pondering, both baselines at its steps, and both again at its FLOPs, each a run with a schedule of its own; of every
# seed from SEED on. A directory that holds a run with other options is refused, not taken for one of these.
COMPARE = $(or $(OUT),out$(DATA_NAME:%=/%))
SEEDS ?= 1
# SEED, SEED + 1, ...; nothing if SEED and SEEDS are not whole numbers, at most 64 seeds.
SEED_LIST = $(shell echo "$(SEED) $(SEEDS)" | awk '/^[0-9]+ [0-9]+$$/ && $$2 <= 64 && length($$1) < 16 \
    { for (n = 0; n < $$2; n++) printf "%.0f ", $$1 + n }')
# $(call compared,row,seed,OUT): its directory; the first seed's is that of train_MODEL_ROW
compared = $(3)/$(MODEL)_$(1)$(if $(filter-out $(firstword $(SEED_LIST)),$(2)),_seed$(2))
# $(call compared_row,name,row): the argument of build/compare; OUT may hold blanks, so it comes in last
compared_row = "$(1)=$(subst @,$(COMPARE),$(subst $(space),$(comma),$(foreach s,$(SEED_LIST),$(call compared,$(2),$(s),@))))"
# $(call compared_job,row,length,seed,directory's row)
compared_job = $(call main_job,$(MODEL),$(1),$(2) --seed $(3) --resume=same,$(call compared,$(or $(4),$(1)),$(3),$(COMPARE)))
define compared_jobs
	$(call compared_job,ponder,--steps $(STEPS),$(1))
	$(call compared_job,vanilla,--steps $(STEPS),$(1))
	$(call compared_job,fair,--steps $(STEPS),$(1))
	flops=$$($(B)/compare --flops-of "$(call compared,ponder,$(1),$(COMPARE))") && $(call compared_job,vanilla,--flops $$flops,$(1),vanilla_flops)
	flops=$$($(B)/compare --flops-of "$(call compared,ponder,$(1),$(COMPARE))") && $(call compared_job,fair,--flops $$flops,$(1),fair_flops)

endef
compare: $(call trainer,$(MODEL)) $(B)/compare $(DATA_MADE) $(if $(TOKENIZER),$(B)/tokens) ## the three at equal steps and at equal FLOPs, SEEDS=n seeds of each; tables and picture
	$(if $(SEED_LIST),,$(error SEED=$(SEED) SEEDS=$(SEEDS): expected whole numbers of at most 15 digits, SEEDS from 1 to 64))
	$(if $(filter $(LENGTHS) --seed --seed=%,$(ARGS)),$(error make compare takes STEPS=n and SEED=n, not ARGS="$(ARGS)"))
	$(call say_trainer,$(MODEL))
	$(foreach s,$(SEED_LIST),$(call compared_jobs,$(s)))
	$(B)/compare --svg "$(COMPARE)/compare.svg" --table "$(COMPARE)/compare.md" --title "$(TITLE_$(MODEL)) on $(or $(DATA_NAME),C headers)" \
	    $(call compared_row,pondering,ponder) $(call compared_row,vanilla,vanilla) $(call compared_row,fair vanilla,fair) \
	    $(call compared_row,vanilla$(comma) longer,vanilla_flops) $(call compared_row,fair vanilla$(comma) longer,fair_flops)
.PHONY: compare

# ---- tests ----

# Tests of arithmetic are compiled as the trainers are, in the best instruction set of this machine; that all
# give the same bits is seen in the trainers, which hold every one, and by hashes in the portable tests. The
# other tests take half the time at -O1, and what they test is also in the trainers that they run.
LESS := $(if $(filter -O3,$(CFLAGS)),-O1)
HAS = $(shell grep -qsw $(1) /proc/cpuinfo && echo 1)
NATIVE := $(if $(filter avx2,$(ISAS)),$(if $(call HAS,avx512bw),avx512,$(if $(call HAS,fma),avx2,portable)),portable)
# $(call test,name,source,flags,instruction set,objects)
define test
$(B)/$(1): $(2) $(5) $(B)/include/modeling_ponder.h
	$$(COMPILE) $$(ISA_$(4)) -g1 -DTESTING -DMAIN=main -DBUILD_DIR='"$(B)"' $(3) -o $$@ $$< $(if $(5),-x none $(5)) $$(LIBS)
endef
# What the tests of an architecture compare it with: the same trainer where layers store bf16.
define kept
$(B)/kept_$(1).o: dev/tests/kept.c $(B)/include/modeling_ponder.h
	$$(COMPILE) $$(ISA_$$(NATIVE)) -g1 -DTESTING $(call IN_BF16,$(1)) $$(LESS) $$(call of_trainer,$(1)) -c -o $$@ $$<
endef
$(foreach a,$(ARCHITECTURES),$(eval $(call kept,$(a))))
$(eval $(call test,test_arithmetic,test_common.c,-DARITHMETIC=1,$(NATIVE)))
$(eval $(call test,test_portable,test_common.c,-DARITHMETIC=1,portable))
$(eval $(call test,test_common,test_common.c,-DARITHMETIC=0 $(LESS),$(NATIVE)))
$(eval $(call test,test_common_double,test_common.c,-DARITHMETIC=1 -DREAL=double $(LESS),portable))
$(eval $(call test,test_ponder,test_ponder.c,-DMIX_ROWS=8 $(LESS),$(NATIVE)))
$(eval $(call test,test_ponder_double,test_ponder.c,-DMIX_ROWS=8 -DREAL=double $(LESS),portable))
# $(call is_whole,architecture): takes the tests that know nothing of layers too
is_whole = -DTEST_WHOLE=$(if $(filter $(1),$(WHOLE)),1,0)
$(foreach a,$(ARCHITECTURES),$(eval $(call test,test_$(a),test_$(a).c,$(LESS) $(call is_whole,$(a)),$(NATIVE),$(B)/kept_$(a).o)))
$(foreach a,$(ARCHITECTURES),$(eval $(call test,test_$(a)_double,test_$(a).c,-DMIX_ROWS=8 -DREAL=double $(LESS),portable,$(B)/kept_$(a).o)))
# Which of them are tested with real = double.
DOUBLES = $(ARCHITECTURES)
TESTS = $(addprefix $(B)/,test_common $(ARCHITECTURES:%=test_%) $(DOUBLES:%=test_%_double) test_portable \
    test_arithmetic test_ponder test_ponder_double test_common_double)
TRAINERS = $(ARCHITECTURES:%=$(B)/train_%)
trainers: $(TRAINERS) ## build the CPU trainers of all architectures
.PHONY: trainers

# BUILD_ONLY=1: the programs of test, test-sanitize, test-fuzz, test-emu and test-emu-models are built and not run.
RUN = $(if $(BUILD_ONLY),@: ,@)
test: $(TRAINERS) $(TESTS) $(B)/bytes $(B)/tokens $(B)/compare ## every test that a bare machine can run (two minutes)
	$(RUN)JOBS=$(or $(JOBS),$(PROCESSORS)) OMP_NUM_THREADS=2 dev/run_tests.sh $(TESTS) "dev/test_make.sh $(B) $(MODEL)"
	$(RUN)echo "not run here: make test-emu (the CUDA half, under the emulator), make test-sanitize (ASan, UBSan)," \
	    "make test-all (also checkpoints in transformers; needs Python and a network)" >&2
# With real = double a layer reaches for the same numbers, each twice as long: the first architecture's layers stand for all, the
# others' are under sanitizers with real = float.
test-sanitize: ## the same tests under AddressSanitizer and UndefinedBehaviorSanitizer
	@ASAN_OPTIONS=detect_leaks=0 $(MAKE) --no-print-directory B=$(B)/sanitize ISAS="$(NATIVE)" DOUBLES="$(FIRST)" \
	    CFLAGS="-O1 -g1 -fsanitize=address,undefined -fno-sanitize-recover=all" test
.PHONY: test test-sanitize

# ---- CUDA ----
#
# make gpu: build/train_X_cuda (bf16) and build/train_X_cuda_fp32, by nvcc. The same source under
# the emulator of dev/emulate, with g++ alone: make emu.

# Architectures to build for: GPU_ARCH="80 90"; else the GPU's own if nvcc knows it; else these two, and
# then also compute_80 PTX, which the driver of a newer GPU compiles when the program starts.
GPU_ARCH ?= $(if $(GPU_SM),$(shell "$(NVCC)" --list-gpu-code 2>/dev/null | grep -qx sm_$(GPU_SM) && echo $(GPU_SM)))
GPU_ARCHS = $(or $(GPU_ARCH),80 90)
# For compute capability 9.0 code that has Hopper's own instructions too (sm_90a); HAVE_SM90A says so to attention.cuh.
GENCODE = $(foreach a,$(GPU_ARCHS:90=90a),-gencode arch=compute_$(a),code=$(if $(filter all syntax,$(CHECK)),compute,sm)_$(a)) \
    $(if $(GPU_ARCH),,-gencode arch=compute_80$(comma)code=compute_80)
SM90A = $(if $(findstring compute_90a,$(GENCODE)),-DHAVE_SM90A)
comma := ,
space := $(subst ,, )
# The C half of these programs is built for AVX2 where this machine has it, to run on others as well.
HOST_ISA = $(if $(filter avx2 avx512,$(NATIVE)),$(ISA_avx2))
HOST_FLAGS = $(OPENMP) $(HOST_ISA) -ffp-contract=off -fno-math-errno $(WARN) -Wno-unknown-pragmas
# CHECK=host: programs that are looked at and not run; their C half is not optimised. CHECK=all: only to see that they compile;
# their kernels, which are those of the trainers, end as PTX, and are not optimised where nvcc can do that (12.9). CHECK=syntax: the
# same, and of the C half, which is half the time, gcc reads what nvcc has made of it and makes nothing: a file that
# says so stands for the program.
ONLY_READ = printf '\#!/bin/sh\necho "only read by the compiler (CHECK=syntax): remove this file and build it" >&2\nexit 1\n' > $@ && chmod +x $@
NVCC_SPEED = $(if $(CHECK),-O0,-O3) $(if $(filter all syntax,$(CHECK)),$(shell "$(NVCC)" --help 2>/dev/null | grep -q Ofast-compile && echo -Ofc max))
NVCC_FLAGS = -x cu -std=c++17 -DGPU=1 $(NVCC_SPEED) -diag-suppress 1675 $(if $(WERROR),-Werror all-warnings) \
    -Xcompiler "$(subst $(space),$(comma),$(strip $(HOST_FLAGS)))" -I$(B)/include $(GENCODE) $(SM90A)

# Where nvcc's cuBLASLt is, found by asking nvcc, which may be a script or a link: programs find it there when they start,
# without LD_LIBRARY_PATH.
CUDA_LIBRARIES = $(shell "$(NVCC)" --dryrun -x cu -o /dev/null /dev/null 2>&1 | sed -n 's/^.*LIBRARIES=//p' | tr ' ' '\n' | \
    sed -n 's/^"\{0,1\}-L\([^"]*\)"\{0,1\}$$/\1/p' | grep -v '/stubs/*$$' | while read d; do ls "$$d"/libcublasLt.so.[0-9]* >/dev/null 2>&1 && cd "$$d" && pwd -P && break; done)
RPATH = $(foreach d,$(CUDA_LIBRARIES),-Xlinker -rpath -Xlinker "$(d)")

# $(call cuda,name,source,flags)
define cuda
$(B)/$(1): $(2) $(B)/include/modeling_ponder.h | need_nvcc
	$$(NVCC) $$(NVCC_FLAGS) $(3) -MMD -MP -MF $$@.d -MT $$@ -o $$@ $$< $$(if $$(filter syntax,$$(CHECK)),-c -Xcompiler -fsyntax-only && $$(ONLY_READ),-lcublasLt -lnccl $$(RPATH))
endef
need_nvcc:
	@[ -x "$(NVCC)" ] || { echo "error: no nvcc found (CUDA Toolkit 12.4 or later); give its path as NVCC=..., or build" \
	    "the CPU program with make train_$(MODEL), or run the CUDA source under the emulator with make emu" >&2; exit 1; }
	@echo "nvcc $$("$(NVCC)" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p') at $(NVCC);" \
	    "$(if $(GPU_SM),GPU of compute capability $(GPU_SM),no GPU here)," \
	    "building for $(foreach a,$(GPU_ARCHS:90=90a),sm_$(a))$(if $(GPU_ARCH),, and PTX of compute_80)"
.PHONY: need_nvcc

KERNEL_TESTS = gpu_layers gpu_matmul gpu_attention gpu_ponder gpu_sampling
GPU_TESTS = $(KERNEL_TESTS) $(ARCHITECTURES:%=gpu_%)
# $(call of_test,program): what is_whole says where it is a model's
of_test = -DTESTING $(if $(filter $(ARCHITECTURES:%=gpu_%),$(1)),$(call is_whole,$(1:gpu_%=%)))
$(foreach a,$(ARCHITECTURES),$(eval $(call cuda,train_$(a)_cuda,train_$(a).cu,)))
$(foreach a,$(ARCHITECTURES),$(eval $(call cuda,train_$(a)_cuda_fp32,train_$(a).cu,-DFP32)))
$(foreach t,$(GPU_TESTS),$(eval $(call cuda,$(t),dev/tests/$(t).cu,$(call of_test,$(t)) -DBUILD_DIR='\"$(B)\"')))
$(foreach t,$(GPU_TESTS),$(eval $(call cuda,$(t)_fp32,dev/tests/$(t).cu,$(call of_test,$(t)) -DFP32 -DBUILD_DIR='\"$(B)\"')))
# As on a GPU that the toolkit does not know: the driver compiles the kernels when the program starts.
$(eval $(call cuda,gpu_attention_ptx,dev/tests/gpu_attention.cu,-DTESTING -DBUILD_DIR='\"$(B)\"'))
$(B)/gpu_attention_ptx: GENCODE = -gencode arch=compute_80$(comma)code=compute_80
# The kernels are the same for all.
$(eval $(call cuda,bench_gpu,dev/bench_gpu.cu,$(call of_trainer,$(FIRST))))
$(foreach a,$(ARCHITECTURES),$(eval $(call cuda,bench_step_$(a)_cuda,dev/bench_step.cu,$(call of_trainer,$(a)))))

GPU_TRAINERS = $(foreach t,$(TRAINERS),$(t)_cuda $(t)_cuda_fp32)
gpu: $(GPU_TRAINERS) ## build the GPU trainers: bf16 and fp32 (CUDA Toolkit)
# That a benchmark, and a model's test in fp32, compile is seen with the first architecture: the others' are the same source around
# trainers that are compiled by themselves, and g++ compiles them for the emulator.
NOT_SEEN = $(if $(filter syntax,$(CHECK)),$(filter-out $(FIRST),$(ARCHITECTURES)))
gpu-tests: $(GPU_TESTS:%=$(B)/%) $(patsubst %,$(B)/%_fp32,$(filter-out $(NOT_SEEN:%=gpu_%),$(GPU_TESTS))) $(B)/gpu_attention_ptx ## build the tests of the GPU half
gpu-bench: $(B)/bench_gpu $(patsubst %,$(B)/bench_step_%_cuda,$(filter-out $(NOT_SEEN),$(ARCHITECTURES))) ## build its benchmarks
gpu-check: gpu gpu-tests gpu-bench $(B)/bytes ## everything that a machine with a GPU can check, in ten minutes
	dev/gpu_check.sh
# Whole steps that gpu_check.sh times, each PRESET:S:SHARE, the share of P that is wanted; of 8 rows of 2,048 tokens, or
# PRESET:S:SHARE:ROWS:TOKENS. Under the emulator the first preset of each architecture alone, tiny.
GPU_STEPS_pythia = pythia-160m:0:0.48 pythia-70m:3:0.48 pythia-160m:3:0.48 pythia-410m:3:0.55 pythia-1.4b:3:0.60
GPU_STEPS_gpt2 = gpt2:0:0.48:16:1024 gpt2:3:0.48:16:1024
GPU_STEPS_llama = llama-405m:3:0.55
# A micro model with the default corpus; on a GPU a longer row, under the emulator what it does in seconds.
COMPARED = $(if $(filter gpu,$(DEVICE)),cuda,emu)
COMPARED_pythia = --model pythia-14m --layers 2 --width 64 --heads 2 --vocab 257 --ponder 3
COMPARED_gpt2 = --model gpt2 --layers 2 --width 64 --heads 2 --vocab 257 --ponder 3
COMPARED_llama = --model llama-405m --layers 2 --width 64 --heads 2 --kv-heads 1 --vocab 257 --ponder 3
COMPARED_RUN = --train "$(call shards,train)" $(if $(filter gpu,$(DEVICE)),--seq 512 --batch 4,--seq 64 --batch 2) --compare-cpu
compare-gpu: $(foreach t,$(TRAINERS),$(t)_$(COMPARED) $(t)_$(COMPARED)_fp32) $(DATA_MADE) ## GPU (or emulator) against CPU, tensor by tensor
	$(foreach a,$(ARCHITECTURES),$(foreach p,_fp32 ,$(B)/train_$(a)_$(COMPARED)$(p) $(COMPARED_$(a)) $(COMPARED_RUN) $(ARGS) &&) \
	    $(B)/train_$(a)_$(COMPARED) $(COMPARED_$(a)) $(COMPARED_RUN) $(ARGS) &&) true
.PHONY: compare-gpu
kernels-table: gpu $(B)/gpu_attention ## registers, spills, shared memory and occupancy of every kernel
	dev/kernels_table.sh -s $(B)/gpu_attention $(GPU_TRAINERS)
.PHONY: gpu gpu-tests gpu-bench gpu-check kernels-table

# ---- the emulator ----

# How the emulator is built finds different things (dev/emulate/README.md): plain; race: data races between
# CUDA threads, by race.cpp; asan: accesses out of bounds, misaligned vectors, overflow; msan: values that nobody wrote
# (clang only; its checks are calls but in attention and in the emulator: as lines of their own they take long to compile). ubsan, a part of asan, stands
# alone for the emulator's own test.
CLANGXX ?= clang++
EMU_plain = $(CXX) -O1 $(OPENMP)
EMU_race = $(EMU_plain) -fsanitize=thread
EMU_asan = $(EMU_plain) -fsanitize=address,undefined -fno-sanitize-recover=all
EMU_ubsan = $(EMU_plain) -fsanitize=undefined -fno-sanitize-recover=all
EMU_msan = $(CLANGXX) -O1 $(if $(findstring attention,$@)$(findstring emulate_msan,$@),,-mllvm -msan-instrumentation-with-call-threshold=0) -fsanitize=memory -fno-omit-frame-pointer
# race.cpp answers the calls that -fsanitize=thread puts into kernels: its library must not.
EMU_LINK_race = $(EMU_plain) -Wl,--wrap=memcpy,--wrap=memmove,--wrap=memset
EMU_FLAGS = -x c++ -std=c++17 -DGPU=1 -DHAVE_SM90A -Idev/emulate -I$(B)/include -g1 -ffp-contract=off $(WARN) -Wno-unknown-pragmas -MMD -MP

# The emulator's products, for cuBLASLt's, are those of the C half, whose bits are the same in every instruction set.
# The emulator itself changes stacks, and has the sanitizers that need it; the stand-in for NCCL has all but the races'.
EMU_OWN_race = $(EMU_plain)
EMU_OWN_ubsan = $(EMU_plain)
EMU_OWN_asan = $(EMU_plain) -fsanitize=address
# $(call emulator,variant)
define emulator
$(B)/emu/emulate_$(1).o: dev/emulate/emulate.cpp
	@mkdir -p $$(@D)
	$$(or $$(EMU_OWN_$(1)),$$(EMU_$(1))) -O2 $$(EMU_FLAGS) $(if $(filter msan,$(1)),,$(HOST_ISA)) -c -o $$@ $$<
$(B)/emu/nccl_$(1).o: dev/emulate/nccl.cpp
	@mkdir -p $$(@D)
	$$(EMU_$(if $(filter race,$(1)),plain,$(1))) -O2 $$(EMU_FLAGS) -c -o $$@ $$<
endef
$(foreach v,plain race asan ubsan msan,$(eval $(call emulator,$(v))))
$(B)/emu/race.o: dev/emulate/race.cpp
	@mkdir -p $(@D)
	$(EMU_plain) -O2 $(EMU_FLAGS) -c -o $@ $<
# Sums and maxima over a warp are seven in ten of all that the lanes of a model wait for. Shuffle by shuffle, as a GPU has them, they
# are in the plain tests of kernels; elsewhere lanes meet once for all of one (common/cuda.cuh, and test_trees of test_emulate).
EMU_SHUFFLES = $(KERNEL_TESTS:%=$(B)/emu/%) $(KERNEL_TESTS:%=$(B)/emu/%_fp32)
# $(call emu,program,source,variant,flags)
define emu
$(1): $(2) $(B)/emu/emulate_$(3).o $(B)/emu/nccl_$(3).o $(if $(filter race,$(3)),$(B)/emu/race.o) $(B)/include/modeling_ponder.h
	$$(EMU_$(3)) $$(EMU_FLAGS) $(if $(filter $(1),$(EMU_SHUFFLES)),,-DEMULATE_TREES) $(4) -DBUILD_DIR='"$(B)"' -c -MF $$@.d -MT $$@ -o $$@.o $$<
	$$(or $$(EMU_LINK_$(3)),$$(EMU_$(3))) -o $$@ $$@.o $(B)/emu/emulate_$(3).o $(B)/emu/nccl_$(3).o $(if $(filter race,$(3)),$(B)/emu/race.o) $$(LIBS)
endef
$(foreach a,$(ARCHITECTURES),$(eval $(call emu,$(B)/train_$(a)_emu,train_$(a).cu,plain,$(HOST_ISA))))
$(foreach a,$(ARCHITECTURES),$(eval $(call emu,$(B)/train_$(a)_emu_fp32,train_$(a).cu,plain,$(HOST_ISA) -DFP32)))
$(foreach t,$(GPU_TESTS),$(eval $(call emu,$(B)/emu/$(t),dev/tests/$(t).cu,plain,$(call of_test,$(t)) $(HOST_ISA))))
$(foreach t,$(GPU_TESTS),$(eval $(call emu,$(B)/emu/$(t)_fp32,dev/tests/$(t).cu,plain,$(call of_test,$(t)) -DFP32 $(HOST_ISA))))
$(foreach v,race asan msan,$(foreach t,$(GPU_TESTS), \
    $(eval $(call emu,$(B)/emu/$(t)_$(v),dev/tests/$(t).cu,$(v),$(call of_test,$(t))))))
$(foreach v,race asan ubsan msan,$(eval $(call emu,$(B)/emu/test_emulate_$(v),dev/emulate/test_emulate.cpp,$(v),-DTESTING)))
$(foreach v,plain asan ubsan,$(eval $(call emu,$(B)/emu/test_nccl_$(v),dev/emulate/test_nccl.cpp,$(v),-DTESTING)))
$(eval $(call emu,$(B)/emu/test_nccl_api,dev/emulate/test_nccl_api.cpp,plain,))
# Benchmarks run for seconds here, to see that they run: not optimised they are built in half the time.
$(eval $(call emu,$(B)/emu/bench_gpu,dev/bench_gpu.cu,plain,-O0 $(call of_trainer,$(FIRST)) $(HOST_ISA)))
$(foreach a,$(ARCHITECTURES),$(eval $(call emu,$(B)/emu/bench_step_$(a),dev/bench_step.cu,plain,-O0 $(call of_trainer,$(a)) $(HOST_ISA))))
emu-check: emu $(foreach t,$(GPU_TESTS),$(B)/emu/$(t) $(B)/emu/$(t)_fp32) $(B)/emu/bench_gpu $(ARCHITECTURES:%=$(B)/emu/bench_step_%) ## build what dev/gpu_check.sh --emulator takes
.PHONY: emu-check

emu: $(foreach t,$(TRAINERS),$(t)_emu $(t)_emu_fp32) ## build the CUDA source under the emulator: no GPU, no toolkit

# What runs in which build, the longest first. Late copies find a missing wait, seeds an order that was luck.
ifneq ($(filter test-emu test-emu-models,$(MAKECMDGOALS)),)
CLANGXX_FOUND := $(shell echo 'int main(){}' | $(CLANGXX) -fsanitize=memory -x c++ -o /dev/null - 2>/dev/null && echo 1)
endif
E = $(B)/emu
EMU_TESTS = $(foreach a,$(ARCHITECTURES),$(E)/gpu_$(a) $(E)/gpu_$(a)_fp32) \
    $(if $(CLANGXX_FOUND),$(E)/gpu_layers_msan $(E)/gpu_ponder_msan $(E)/gpu_attention_msan $(E)/gpu_sampling_msan) \
    $(E)/gpu_attention_race $(E)/gpu_layers_race $(E)/gpu_ponder_race $(E)/gpu_attention_asan $(E)/gpu_layers_asan $(E)/gpu_ponder_asan $(E)/gpu_matmul_asan $(E)/gpu_attention \
    $(E)/gpu_sampling $(E)/gpu_sampling_race $(E)/gpu_sampling_asan \
    $(E)/gpu_attention_fp32 $(E)/gpu_layers_fp32 $(E)/gpu_ponder $(E)/gpu_ponder_fp32 $(E)/gpu_matmul_fp32 $(E)/test_emulate_race $(E)/test_emulate_asan \
    $(E)/test_emulate_ubsan $(E)/test_nccl_asan $(E)/test_nccl_ubsan $(E)/test_nccl_plain \
    $(if $(CLANGXX_FOUND),$(E)/test_emulate_msan)
EMU_LATE = %/gpu_attention %/gpu_layers_asan %/gpu_attention_asan %/gpu_matmul_asan %/gpu_ponder $(foreach a,$(ARCHITECTURES),%/gpu_$(a)_fp32)
EMU_SEED = %/gpu_attention %/gpu_sampling_asan %/gpu_layers_asan %/gpu_layers_fp32 %/gpu_ponder_fp32 %/gpu_attention_asan %/gpu_matmul_asan
test-emu: $(EMU_TESTS) emu $(B)/bytes nccl-api ## every CUDA kernel and the whole model under the emulator, by the C half (ten minutes)
	$(RUN)ASAN_OPTIONS=detect_leaks=0 JOBS=$(or $(JOBS),$(PROCESSORS)) dev/run_tests.sh "dev/test_ranks.sh $(B) $(ARCHITECTURES)" \
	    "dev/test_recipes.sh $(B)" \
	    $(foreach t,$(EMU_TESTS),"env $(if $(filter $(EMU_LATE),$(t)),EMULATE_ASYNC=late) $(if $(filter $(EMU_SEED),$(t)),EMULATE_SEED=7) $(t)")
	@$(if $(CLANGXX_FOUND),:,echo "left out: MemorySanitizer's builds, which need clang++ and its run-time library" >&2)

# A whole model in the builds that judge the kernels of test-emu, each kernel with its shapes, places and neighbours: against
# the C half (compare_cpu, evaluate_and_logits), three steps of AdamW (padding), all that --recompute may compute again, texts
# that grow (decode; draw in those of WHOLE alone, as the others have not that test).
EMU_MODEL_PARTS = compare_cpu evaluate_and_logits padding recompute decode
# $(call parts_of,program)
parts_of = $(EMU_MODEL_PARTS) $(if $(filter $(foreach a,$(WHOLE),$(E)/gpu_$(a)_%),$(1)),draw)
EMU_MODELS = $(foreach v,race asan $(if $(CLANGXX_FOUND),msan),$(foreach a,$(ARCHITECTURES),$(E)/gpu_$(a)_$(v)))
test-emu-models: $(EMU_MODELS) ## whole models under the emulator with the detectors that test-emu has for kernels
	$(RUN)ASAN_OPTIONS=detect_leaks=0 JOBS=$(or $(JOBS),$(PROCESSORS)) dev/run_tests.sh \
	    $(foreach t,$(EMU_MODELS),$(foreach p,$(call parts_of,$(t)),"env $(if $(filter %_asan,$(t)),EMULATE_ASYNC=late) $(t) $(p)"))
	@$(if $(CLANGXX_FOUND),:,echo "left out: MemorySanitizer's builds, which need clang++ and its run-time library" >&2)
.PHONY: emu test-emu test-emu-models

# The stand-in's header beside NCCL's, where nvcc finds that: test_nccl_api.cpp compiled with both, and linked. And the
# stand-in as a library that ranks on one real GPU take in NCCL's place, by LD_PRELOAD or LD_LIBRARY_PATH.
NCCL_FOUND = $(if $(NVCC),$(shell echo '\#include <nccl.h>' | "$(NVCC)" -x cu -E - >/dev/null 2>&1 && echo 1))
$(B)/nccl_api: dev/emulate/test_nccl_api.cpp | $(B)
	$(NVCC) -std=c++17 -x cu -o $@ $< -lnccl $(RPATH)
nccl-api: $(E)/test_nccl_api
	$(E)/test_nccl_api --gpu
	@$(if $(NCCL_FOUND),$(MAKE) --no-print-directory nccl-api-real,echo "NCCL's own header: nvcc finds none; the stand-in's was not compared with it" >&2)
nccl-api-real: $(B)/nccl_api nccl-stand-in
	$(B)/nccl_api
	LD_PRELOAD=$(B)/stand_in/libnccl.so.2 $(B)/nccl_api
$(B)/stand_in/libnccl.so.2: dev/emulate/nccl.cpp dev/emulate/nccl.h dev/emulate/nccl_wire.h | need_nvcc
	@mkdir -p $(@D)
	$(NVCC) -std=c++17 -O2 -x c++ -shared -Xcompiler -fPIC,-Wall,-Wextra,-Werror,-Wno-missing-field-initializers \
	    -Xlinker -soname=libnccl.so.2,--exclude-libs=ALL -o $@ dev/emulate/nccl.cpp
nccl-stand-in: $(B)/stand_in/libnccl.so.2 ## NCCL's stand-in for several ranks on one real GPU, build/stand_in/libnccl.so.2
.PHONY: nccl-api nccl-api-real nccl-stand-in

VENV = build/venv
PYTHON = PYTHONDONTWRITEBYTECODE=1 $(VENV)/bin/python
venv: ## the Python environment of data/*.py and of the checks against PyTorch, build/venv (640 MB from the network)
	dev/setup_venv.sh
test-all: ## all that this machine can (network), and the total; gpu-check and test-emu-models are apart
	@MAKE="$(MAKE)" dev/run_parts.sh $(B)/parts test test-sanitize test-fuzz test-emu test-transformers test-smollm2
# Guided by coverage, each parser by itself, where clang has libFuzzer; else blindly, all of them at once.
FUZZ_SECONDS ?= 20
CLANG ?= clang
ifneq ($(filter test-fuzz,$(MAKECMDGOALS)),)
FUZZER := $(shell echo 'int LLVMFuzzerTestOneInput(void) { return 0; }' | $(CLANG) -fsanitize=fuzzer -x c -o /dev/null - 2>/dev/null && echo fuzz_guided || echo fuzz)
endif
FUZZ_FLAGS = -x c -std=gnu11 -g -O1 -fno-sanitize-recover=all -Wno-unknown-pragmas -I$(B)/include -MMD -MP
# $(call fuzz,architecture). The first reads all that is read; the others, whose config.json is their own, that alone and, by
# clang, not optimised: nine files are read for every ten, and it is built in a tenth of the time.
define fuzz
$(B)/fuzz_$(1): dev/fuzz.c $(B)/include/modeling_ponder.h
	$$(CC) $$(FUZZ_FLAGS) -fsanitize=address,undefined -DFUZZ_MAIN $$(call of_trainer,$(1)) -o $$@ $$< $$(LIBS)
$(B)/fuzz_guided_$(1): dev/fuzz.c $(B)/include/modeling_ponder.h
	$$(CLANG) $$(FUZZ_FLAGS) $(if $(filter $(1),$(FIRST)),,-O0) -fsanitize=fuzzer,address,undefined $$(call of_trainer,$(1)) -o $$@ $$< $$(LIBS)
endef
$(foreach a,$(ARCHITECTURES),$(eval $(call fuzz,$(a))))
test-fuzz: $(ARCHITECTURES:%=$(B)/$(FUZZER)_%) ## damaged files for every parser, FUZZ_SECONDS=20 each, under the sanitizers
	@$(if $(filter fuzz,$(FUZZER)),echo "blindly: coverage guides it where clang has libFuzzer" >&2)
	$(RUN)B="$(B)" JOBS=$(or $(JOBS),$(PROCESSORS)) dev/fuzz.sh $(FUZZ_SECONDS) $^
test-transformers: $(TRAINERS) $(B)/tokens ## all that takes Python: checkpoints in two versions of transformers, tokenizers, our PyTorch twin, data/
	$(RUN)VENV="$(VENV)" dev/test_python.sh $(B) $(ARCHITECTURES)
test-smollm2: $(B)/train_llama venv ## real weights, SmolLM2-135M (93 MB from the network), in train_llama and in transformers
	$(PYTHON) dev/check_smollm2.py $(B)/train_llama
fixtures: venv ## make dev/fixtures anew with our PyTorch twin
	$(PYTHON) dev/ref/make_fixtures.py
.PHONY: venv test-all test-fuzz test-transformers test-smollm2 fixtures

# Whole steps on the CPU, each PRESET/S/B/T; gpt2/0/4/64 is what llm.c's own CPU program trains, which runs beside it
# where LLMC names a directory with its sources. Then a step of the first main job, alone and with a busy process on
# every processor beside it.
STEPS_pythia = pythia-160m/0/4/64 pythia-70m/3/2/256
STEPS_gpt2 = gpt2/0/4/64
STEPS_llama = llama-405m/0/2/64
# Texts that grow, PRESET/S/texts/tokens.
DECODE_pythia = pythia-160m/0/1/128 pythia-160m/3/1/128 pythia-160m/3/8/128
bench-cpu: $(B)/bench_cpu $(ARCHITECTURES:%=$(B)/bench_step_%) ## speed beside this machine's limits, beside PyTorch where build/venv has it and llm.c where LLMC=DIR has its sources
	$(B)/bench_cpu
	$(foreach a,$(ARCHITECTURES),$(foreach c,$(STEPS_$(a)),$(B)/bench_step_$(a) $(subst /, ,$(c)) &&)) true
	$(foreach a,$(ARCHITECTURES),$(foreach c,$(DECODE_$(a)),$(B)/bench_step_$(a) --decode $(subst /, ,$(c)) &&)) true
	@if [ -n "$(LLMC)" ]; then CC="$(CC)" dev/bench_llmc.sh "$(LLMC)"; \
	    else echo "llm.c beside it: LLMC=DIR, its sources"; fi
	@if [ -x $(VENV)/bin/python ]; then \
	    $(PYTHON) dev/bench_torch.py $(foreach a,$(ARCHITECTURES),$(STEPS_$(a))) && \
	    $(PYTHON) dev/bench_torch.py --decode $(foreach a,$(ARCHITECTURES),$(DECODE_$(a))); \
	    else echo "PyTorch beside it: dev/setup_venv.sh first"; fi
	$(B)/bench_step_$(FIRST) --busy $(filter-out --model,$(MAIN_$(FIRST))) 3 4 256
.PHONY: bench-cpu

lint: $(B)/include/modeling_ponder.h ## the rules of the code
	@CC="$(CC)" B="$(B)" dev/lint.sh
.PHONY: lint

clean: ## remove build/ (trained models in out/ and data stay)
	rm -rf $(B)
.PHONY: clean

-include $(wildcard $(B)/*.d $(B)/emu/*.d)
