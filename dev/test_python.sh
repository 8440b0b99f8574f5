#!/bin/bash
# test_python.sh BUILD ARCHITECTURE... - all tests that take Python, with the programs of BUILD and the environment of
# dev/setup_venv.sh, which is made first. Where no package index can be reached they are skipped, each by its name, and counted;
# PYTHON_REQUIRED=1 takes that for a failure. The last line is `N passed, N failed, N skipped`, the exit status the verdict.
cd "$(dirname "$0")/.." || exit 1
build=$1
shift
venv=${VENV:-build/venv}
python=$venv/bin/python
binaries=
for model in "$@"; do binaries="$binaries --binary $build/train_$model"; done
tests=(
    "$python dev/ref/check_fixtures.py"
    "$python dev/test_tools.py $build/train_gpt2"
    "$python dev/check_tokenizers.py $build/tokens"
    "$python dev/test_convert.py"
    "$python dev/test_data.py $build/tokens"
    "$python dev/check_transformers.py --fixtures$binaries"
    "env PYTHONPATH=$venv/transformers-old $python dev/check_transformers.py --fixtures$binaries"
)

dev/setup_venv.sh
status=$?
if [ $status = 69 ] && [ -z "${PYTHON_REQUIRED-}" ]; then
    for test in "${tests[@]}"; do echo "skip ${test#*/bin/python }: no package index can be reached, so there is no $venv"; done
    echo "0 passed, 0 failed, ${#tests[@]} skipped"
    exit 0
fi
[ $status = 0 ] || { echo "FAIL dev/setup_venv.sh: exit status $status"; echo "0 passed, 1 failed, 0 skipped"; exit 1; }

# The packages come as text (dev/setup_venv.sh), and every process would compile anew what it imports of them: two seconds of a
# processor for PyTorch, ten with transformers, and tests start many. So it is done once, into BUILD/compiled. Tests read there and write
# nothing: some of their processes are killed, or have a limit on the size of a file, at which Python would leave half of one.
case $build in /*) ;; *) build=$PWD/$build ;; esac
export PYTHONPYCACHEPREFIX=$build/compiled
compile() { # with these packages before those of the environment
    env -u PYTHONDONTWRITEBYTECODE PYTHONPATH="$1" "$venv/bin/python" -c '
import sys
sys.path[:0] = ["dev", "dev/ref", "data"]
import datasets, torch._dynamo
import check_transformers
from transformers.models.gpt2 import modeling_gpt2
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama'
}
if ! cmp -s "$venv/stamp" "$build/compiled/stamp"; then
    rm -rf "$build/compiled"
    compile "" && compile "$venv/transformers-old" && cp "$venv/stamp" "$build/compiled/stamp"
fi
export PYTHONDONTWRITEBYTECODE=1
exec dev/run_tests.sh "${tests[@]}"
