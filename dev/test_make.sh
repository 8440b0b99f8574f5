#!/bin/bash
# test_make.sh [BUILD [MODEL]] - what make does with names of directories, half-made data, GPUs that answer oddly, and
# wrong values, and what the jobs of each architecture are: in a copy of the files, with the programs of BUILD (build). The
# last line is `N passed, N failed, N skipped`, the exit status the verdict.
cd "$(dirname "$0")/.." || exit 1
. dev/checks.sh
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DEVICE TOKENIZER VAL_SHARE QUICK GPUS TRAINER DATA OUT ARGS B CC CFLAGS NVCC MODEL STEPS SEED CUDA_VISIBLE_DEVICES
export LC_ALL=C
build=$(cd "${1:-build}" && pwd) || exit 1
model=${2:-pythia}
architectures=$(sed -n 's/^ARCHITECTURES = //p' Makefile)
programs="$(printf 'train_%s ' $architectures)bytes tokens compare"
for program in $programs; do
    [ -x "$build/$program" ] || { echo "error: no $build/$program: make it first" >&2; exit 1; }
done

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
copy="$tmp/a copy" # everything works where the path has blanks
mkdir -p "$copy/build" "$tmp/tools"
tar -cf - --exclude=./build --exclude=./out --exclude=./.git --exclude='./data/*/*' . | tar -xf - -C "$copy" || exit 1
for program in $programs; do ln -s "$build/$program" "$copy/build/$program"; done
cd "$copy" || exit 1
build/bytes --out-train small/train.bin --out-val small/val.bin README.md ponder.cuh Makefile >"$tmp/log" 2>&1 || cat "$tmp/log"

# make, with programs as they are.
run_make() { make $(printf -- '-o build/%s ' $programs) "$@" >"$tmp/log" 2>&1; }
says() { grep -qF -- "$1" "$tmp/log"; }
fails_saying() { [ "$status" != 0 ] && says "$1"; }
# What a tool of that name prints, and its exit status.
tool() { # NAME STATUS TEXT
    printf '#!/bin/sh\nprintf "%%s\\n" "%s"\nexit %s\n' "$3" "$2" >"$tmp/tools/$1"
    chmod +x "$tmp/tools/$1"
}

# ---- names of OUT, and ARGS with quotes ----

for out in out/a/ out/b// out/lr=1e-3 out/a,b 'out/two words' "out/a,b=c d/" ./-x "out/it's"; do
    run_make "train_${model}_fair" DEVICE=cpu DATA=small STEPS=1 OUT="$out" \
        ARGS="--sample-tokens 2 --prompt 'two words' --seq 32 --batch 2 --val-batches 1"
    status=$?
    ok "OUT=$out" [ "$status" = 0 ]
    ok "OUT=$out has no picture" [ -s "$out/curves.svg" ]
    ok "OUT=$out: the prompt" says "two words"
done
for out in 'out/"q' 'out/b\q' 'out/`q' 'out/$$q'; do
    run_make "train_${model}_fair" DEVICE=cpu DATA=small STEPS=1 OUT="$out"
    status=$?
    ok "OUT=$out" fails_saying "expected a path without quotes, backslashes and dollar signs"
    ok "OUT=$out was trained" [ ! -e "out/${out#out/}" ]
done

# ---- text files as data ----

quickly="--sample-tokens 2 --seq 32 --batch 2 --val-batches 1"
texts() { run_make "train_${model}_fair" DEVICE=cpu STEPS=1 ARGS="$quickly" "$@"; }
mkdir "my texts" && cp README.md "my texts/a.md"
cp README.md a_text.md && cp ponder.cuh b_text.h
texts DATA="a_text.md b_text.h"
status=$?
ok "two texts" [ "$status" = 0 ]
made=$(echo data/texts/a_text_and_more-*)
ok "their shards: $made" [ -s "$made/train.bin" ]
ok "a run of their own" [ -d "out/${model}_fair_${made#data/texts/}" ]
ok "where it is" says "checkpoint out/${model}_fair_${made#data/texts/}/step_00000001"
texts DATA="?_text.*"
ok "a pattern finds the same" [ "$(ls data/texts | wc -l)" = 1 ]
ok "nothing is made again" [ "$(grep -c build/bytes "$tmp/log")" = 0 ]
sed -i '1s/^/x/' a_text.md b_text.h && texts DATA="a_text.md b_text.h" STEPS=2
status=$?
ok "a text has changed, so the data of the run" fails_saying "training data"
texts DATA="a_text.md" VAL_SHARE=0.4 OUT=out/share
made=$(echo data/texts/a_text-*)
share=$((100 * $(wc -c <"$made/val.bin") / ($(wc -c <"$made/val.bin") + $(wc -c <"$made/train.bin"))))
ok "VAL_SHARE=0.4 gives $share %" [ $share -ge 37 -a $share -le 43 ]
tokenizer=dev/fixtures/tokenizers/gpt-neox.json
texts DATA=b_text.h TOKENIZER=$tokenizer OUT=out/tokens
status=$?
ok "a tokenizer" [ "$status" = 0 ]
ok "its vocabulary" says "--vocab 257 --vocab \$vocabulary"
ok "the checkpoint carries it" cmp -s out/tokens/step_00000001/tokenizer.json $tokenizer
made=$(echo data/texts/b_text-*)
build/tokens --tokenizer $tokenizer --out all.bin b_text.h >>"$tmp/log" 2>&1
tokens=$((($(wc -c <"$made/train.bin") + $(wc -c <"$made/val.bin")) / 2 - 1024 - ($(wc -c <all.bin) / 2 - 512)))
ok "the same tokens but at the cut: $tokens more" [ $tokens -ge 0 -a $tokens -le 3 ]
ok "no bytes are left" [ -z "$(ls -d "$made"/bytes* 2>/dev/null)" ]
# Two at once: the second begins and ends while the first is between its bytes and their tokens; one was killed there.
cp "$made/train.bin" one.bin && rm "$made/train.bin" build/tokens && mkdir -p "$made/bytes.99999999"
cat >build/tokens <<END
#!/bin/sh
[ -e second.log ] || env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES make data DATA=b_text.h TOKENIZER=$tokenizer \\
    -o build/bytes -o build/tokens >second.log 2>&1
exec "$build/tokens" "\$@"
END
chmod +x build/tokens
run_make data DATA=b_text.h TOKENIZER=$tokenizer
status=$?
ok "a second one that ends before the first" [ "$status" = 0 ]
ok "it made its shards: $(tail -n 1 second.log)" [ "$(grep -c '^data/texts/.*train.bin: .* tokens of 2 bytes' second.log)" = 1 ]
ok "the same shards" cmp -s one.bin "$made/train.bin"
ok "no bytes are left of either" [ -z "$(ls -d "$made"/bytes* 2>/dev/null)" ]
rm build/tokens && ln -s "$build/tokens" build/tokens
texts DATA=b_text.h OUT=out/tokens ARGS="$quickly --prompt 'it is' --tokenizer $tokenizer"
status=$?
ok "the same, named in ARGS" [ "$status" = 0 ]
ok "is the same corpus" [ "$(echo data/texts/b_text-*)" = "$made" ]
texts DATA=b_text.h TOKENIZER=dev/fixtures/tokenizers/sentencepiece_plain.model OUT=out/sentences
status=$?
ok "SentencePiece's model" [ "$status" = 0 ]
ok "the checkpoint carries it too" [ -s out/sentences/step_00000001/tokenizer.model ]
ok "samples are its text" says "bits_per_byte"
mkdir -p corpus/tokenizer && cp "$made/train.bin" corpus/train_000000.bin && cp "$made/val.bin" corpus/val_000000.bin
cp $tokenizer corpus/tokenizer/tokenizer.json
texts DATA=corpus
status=$?
ok "a corpus with many shards and a tokenizer" [ "$status" = 0 ]
ok "its shards" says '--train "corpus/train_*.bin"'
ok "its run" cmp -s "out/${model}_fair_corpus/step_00000001/tokenizer.json" $tokenizer
texts TOKENIZER=$tokenizer
status=$?
ok "a tokenizer for the C headers" fails_saying "TOKENIZER=$tokenizer: expected text files beside it"
texts DATA="a_text.md missing.txt"
status=$?
ok "a text that is not there" fails_saying "DATA: expected text files, found no missing.txt"
texts DATA="a_text.md dev"
status=$?
ok "a directory among texts" fails_saying "found the directory dev"
texts DATA=b_text.h TOKENIZER=nowhere.json OUT=out/nowhere
status=$?
ok "a tokenizer that is not there" fails_saying "nowhere.json: expected a tokenizer.json"
ok "and no shards" [ -z "$(find data/texts -newer corpus/tokenizer -name 'train.bin' -path '*b_text*' ! -path '*/bytes*/*')" ]
printf 'a\0b' >zero.txt
texts DATA=zero.txt
status=$?
ok "no text at all" [ "$status" != 0 ]
rm -rf data/texts corpus

# ---- the three rows of every architecture, and their comparison ----

# The rates that the sweeps in dev/LOG.md chose; of an architecture that is not there, what the Makefile says.
rate_of() { # ARCHITECTURE ROW
    case $1_$2 in
    llama_vanilla) echo 2e-3 ;;
    pythia_* | gpt2_* | llama_*) echo 4e-3 ;;
    *) sed -n "s/^ROW_$1_$2 = .*--lr \([^ ]*\).*/\1/p" Makefile ;;
    esac
}
# took RUN "OPTION VALUE"...: so the trainer took them, as its last checkpoint says; null: not given
took() {
    local run=$1 file want
    shift
    file=$(echo "$run"/step_*/trainer_state.json)
    for want in "$@"; do
        grep -qE "^ +\"${want% *}\": \"?${want#* }\"?,?\$" "$file" || { echo "     $file: expected $want" && return 1; }
    done
}
is_row() { # RUN ARCHITECTURE ROW
    local run=$1 rate
    rate=$(rate_of "$2" "$3")
    case $3 in
    ponder) set -- "ponder 3" "scale-embeds null" "init null" ;;
    vanilla) set -- "ponder 0" "scale-embeds null" "init null" ;;
    fair) set -- "ponder 0" "scale-embeds 1" "init ponder" ;;
    esac
    took "$run" "lr ${rate:-is missing}" "$@"
}
for architecture in $architectures; do
    of_both() { run_make "$@" MODEL="$architecture" DEVICE=cpu DATA=small STEPS=1 ARGS="$quickly"; }
    for row in ponder vanilla fair; do
        of_both "train_${architecture}_$row" OUT="rows/${architecture}_$row"
        status=$?
        ok "train_${architecture}_$row" [ "$status" = 0 ]
        ok "train_${architecture}_$row: its options" is_row "rows/${architecture}_$row" "$architecture" "$row"
    done
    of_both compare OUT=rows
    status=$?
    ok "make compare MODEL=$architecture" [ "$status" = 0 ]
    ok "compare MODEL=$architecture trains no row again" [ "$(grep -c '^finished: step 1 of 1' "$tmp/log")" = 3 ]
    ok "compare MODEL=$architecture: its table" grep -q "^| fair vanilla, longer" rows/compare.md
    for row in vanilla fair; do
        run=rows/${architecture}_${row}_flops
        ok "compare MODEL=$architecture, $row at equal FLOPs: its options" is_row "$run" "$architecture" "$row"
        ok "compare MODEL=$architecture, $row at equal FLOPs: its length" took "$run" \
            "flops $(build/compare --flops-of "rows/${architecture}_ponder")" "total_steps 4"
    done
done
rm -r rows

# ---- the reference's quick start, where MiniPile is ----

mkdir -p data/minipile && touch data/minipile/train_000000.bin data/minipile/val_000000.bin
quick() { run_make -n train_pythia_ponder -o build/train_pythia "$@"; }
quick DEVICE=cpu
ok "what it would take here" says "data/minipile: the quick start of the reference on it would be 2.52 EFLOP, about"
ok "and the small model instead" says "--vocab 257"
quick DEVICE=cpu QUICK=0
ok "not asked for" [ "$(grep -c EFLOP "$tmp/log")" = 0 ]
quick DEVICE=cpu QUICK=1 STEPS=7 OUT=out/q
ok "QUICK=1" says 'TRAINER=build/train_pythia dev/recipes/minipile.sh ponder --seed 42 --steps 7 --out "out/q"'
quick DEVICE=cpu DATA=small
ok "other data" [ "$(grep -c minipile "$tmp/log")" = 0 ]
touch data/minipile/train_000000.bin && TRAINER=/bin/echo dev/recipes/minipile.sh vanilla >"$tmp/log" 2>&1
ok "the other command" says "--model pythia-70m --ponder 0 --scale-embeds 0 --init stock"
# A run of data/minipile.py that did not end has left some shards, or none yet.
touch data/minipile/progress.json
for shards in some none; do
    [ $shards = some ] || rm data/minipile/*.bin
    quick DEVICE=cpu
    ok "$shards of the shards, no manifest: what it would take" says "the quick start of the reference on it would be"
    run_make train_pythia_ponder DEVICE=cpu QUICK=1
    status=$?
    ok "$shards of the shards" fails_saying "data/minipile: expected all shards of a corpus, found those of a run that did not end"
    ok "$shards of the shards: the command that goes on" says "goes on there: build/venv/bin/python data/minipile.py --out data/minipile"
    run_make data DATA=data/minipile
    status=$?
    ok "$shards of the shards, as DATA" fails_saying "DATA=data/minipile: expected all shards of a corpus"
    ok "$shards of the shards: something was made there" [ ! -e data/minipile/train.bin ]
done
touch data/minipile/train_000000.bin data/minipile/val_000000.bin data/minipile/manifest.json
TRAINER=/bin/echo dev/recipes/minipile.sh vanilla >"$tmp/log" 2>&1
ok "ended before progress.json was removed" says "--model pythia-70m"
rm data/minipile/*.json

# ---- data that is half made ----

# Instead of build/bytes: writes both shards, or dies between them.
cat >"$tmp/tools/bytes" <<'END'
#!/bin/sh
mkdir -p data/headers && echo new >data/headers/train.bin && [ ! -e die ] && echo new >data/headers/val.bin
END
chmod +x "$tmp/tools/bytes"
rm build/bytes && cp "$tmp/tools/bytes" build/bytes
both() { [ "$(cat data/headers/train.bin)" = "$1" ] && [ "$(cat data/headers/val.bin)" = "$1" ]; }
old() { rm -rf data/headers && mkdir -p data/headers && for f in "$@"; do echo old >"data/headers/$f.bin"; done; }
old && run_make data
ok "no data" both new
old train && run_make data
ok "only train.bin" both new
old val && run_make data
ok "only val.bin" both new
old train val && run_make data
ok "both are there" both old
old && touch die && ! run_make data && rm die && run_make data
ok "data after one that was killed" both new
old train && ! run_make "train_${model}_ponder" DEVICE=cpu STEPS=x
ok "the main job after one that was killed" both new
for half in train val; do
    mkdir -p "mine_$half" && echo mine >"mine_$half/$half.bin" && run_make data DATA="mine_$half"
    status=$?
    ok "the user's $half.bin alone" fails_saying "expected train.bin and val.bin there, or neither, found mine_$half/$half.bin"
    ok "the user's $half.bin was touched" [ "$(cat "mine_$half/$half.bin")" = mine ]
done
run_make data DATA="two words"
status=$?
ok "DATA with a blank" fails_saying "DATA=two words: expected a path without blanks"
run_make data B="two words"
status=$?
ok "B with a blank" fails_saying "B=two words: expected a path without blanks"

# ---- llm.c's own job: on the user's shards, once through them or as long as asked ----

run_make need_shards TRAIN="$tmp/*.bin"
status=$?
ok "shards to train on alone" fails_saying "needs the token shards to train on and to validate on"
job() { run_make -n train_gpt2_124m DEVICE=cpu TRAIN="a*.bin" VAL=b.bin "$@"; }
job
ok "the job's data" says '--train "a*.bin" --val "b.bin"'
ok "the job's length without STEPS" [ "$(grep -c -e '--steps' "$tmp/log")" = 0 ]
job STEPS=7 OUT=elsewhere
ok "the job's STEPS" says "--steps 7 "
ok "the job's OUT" says '--out "elsewhere"'
ok "the job's steps" says " --seq 1024 --total-batch 524288 "
ok "the job's validations" says " --val-every 250 --val-batches 1280 "
# Smaller, it is a run: what else llm.c's scripts/run_gpt2_124M.sh says, and the trainer's own words for it.
run_make train_gpt2_124m DEVICE=cpu TRAIN=small/train.bin VAL=small/val.bin STEPS=1 OUT=llmc \
    ARGS="--layers 1 --width 16 --heads 2 --vocab 257 $quickly --total-batch 64"
status=$?
ok "the job as a small one" [ "$status" = 0 ]
ok "the job's options" took llmc "model gpt2" "ponder 0" "lr 6e-4" "schedule cosine" "min-lr-ratio 0" "warmup-steps 700" \
    "weight-decay 0.1" "beta1 0.9" "beta2 0.95" "eps 1e-8" "clip 1.0" "save-every 5000" "sample-every 20000" "tie null"

# ---- a model that is none ----

for wrong in foo "" "pythia gpt2" ponder; do
    for target in compare test; do
        run_make -n $target MODEL="$wrong" DEVICE=cpu
        status=$?
        ok "make $target MODEL=$wrong" fails_saying "MODEL=$wrong: expected one of $architectures"
    done
done
MODEL=foo run_make -n "train_${model}_ponder" DEVICE=cpu
status=$?
ok "MODEL of the environment where no target takes it" [ "$status" = 0 ]

# ---- which device ----

PATH=$tmp/tools:$PATH
tool nvcc 0 sm_90
device() { run_make -n "train_${model}_ponder" "$@"; }
on_cpu() { [ "$status" = 0 ] && says "build/train_$model, on the CPU ($1)"; }
tool nvidia-smi 255 "Unable to determine the device handle for GPU0000:81:00.0: Unknown Error"
device
status=$?
ok "nvidia-smi fails" on_cpu "nvidia-smi finds no GPU"
for text in "9.0" "Unable to determine the device handle for GPU0000:81:00.0" "[N/A]" "" "90" "No devices were found 9.0"; do
    code=0
    [ "$text" = 9.0 ] && code=9
    tool nvidia-smi $code "$text"
    device
    status=$?
    ok "nvidia-smi says '$text' with status $code" on_cpu "nvidia-smi finds no GPU"
done
tool nvidia-smi 0 "7.5"
device
status=$?
ok "an old GPU" on_cpu "the GPU is older than compute capability 8.0"
for text in 8.0 9.0 12.0 "9.0
7.5"; do
    tool nvidia-smi 0 "$text"
    device
    ok "a GPU of $text" says "build/train_${model}_cuda, on the GPU"
done
# Two questions: of which capability, how much memory.
printf '#!/bin/sh\ncase "$*" in *memory*) cat memory ;; *) echo 9.0 ;; esac\n' >"$tmp/tools/nvidia-smi"
echo "81559 MiB" >memory && quick -o build/train_pythia_cuda
ok "MiniPile and a GPU for it" says "TRAINER=build/train_pythia_cuda dev/recipes/minipile.sh ponder --seed 42  --out"
ok "where it goes" says '--out "out/minipile_ponder"'
for text in "8192 MiB" "[N/A]"; do
    echo "$text" >memory && quick -o build/train_pythia_cuda
    ok "a GPU with $text" says "and it needs 15 GB with its 8 rows"
    ok "a GPU with $text trains the small model" says "--vocab 257"
done
rm -r data/minipile
tool nvidia-smi 0 "9.0"
device DEVICE=cpu
status=$?
ok "DEVICE=cpu beside a GPU" on_cpu "as asked"
for wrong in GPU cuda "" "cpu gpu"; do
    device DEVICE="$wrong"
    status=$?
    ok "DEVICE=$wrong" fails_saying "DEVICE=$wrong: expected cpu or gpu"
done
make train_${model}_ponder DEVICE=gpu NVCC=/nowhere/nvcc >"$tmp/log" 2>&1
status=$?
ok "DEVICE=gpu without nvcc" fails_saying "error: no nvcc found"

# ---- where a program finds cuBLASLt: not in a directory of stubs, with which it links and does not start ----

for folder in stubs toolkit; do
    mkdir -p "$tmp/lib_$folder/stubs"
    touch "$tmp/lib_$folder/stubs/libcublasLt.so.13"
done
touch "$tmp/lib_toolkit/libcublasLt.so.13"
libraries="\\\"-L$tmp/lib_stubs/stubs\\\" \\\"-L$tmp/lib_stubs\\\" \\\"-L$tmp/lib_toolkit/stubs/\\\" \\\"-L$tmp/lib_toolkit\\\""
tool nvcc 0 "#\$ LIBRARIES=  $libraries"
run_make -n "build3/train_${model}_cuda" NVCC="$tmp/tools/nvcc" GPU_ARCH=90 B=build3
ok "a toolkit beside stubs" says "-Xlinker -rpath -Xlinker \"$tmp/lib_toolkit\""
ok "stubs in a program's path" [ "$(grep -c stubs "$tmp/log")" = 0 ]
ok "Hopper's own instructions" says "arch=compute_90a,code=sm_90a"
ok "a program that knows of them" says "-DHAVE_SM90A"

# ---- a compiler of two words, the compile line without make ----

run_make build/compare B=build2 CC="env cc" && rm -rf build2
make build2/compare B=build2 CC="env cc" CFLAGS=-O0 >"$tmp/log" 2>&1
ok "CC of two words" [ -x build2/compare ]
cc -x c -std=gnu11 -fsyntax-only "train_$model.cu" >"$tmp/log" 2>&1
status=$?
ok "compiled before make was" fails_saying "make train_pythia"

checked
