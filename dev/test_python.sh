#!/bin/bash
# test_python.sh BUILD ARCHITECTURE... - all tests that take Python, with the programs of BUILD and the environment of
# dev/setup_venv.sh, which is made first. Where no package index can be reached they are skipped, each by its name, and counted;
# PYTHON_REQUIRED=1 takes that for a failure. The last line is `N passed, N failed, N skipped`, the exit status the verdict.
cd "$(dirname "$0")/.." || exit 1
build=$1
shift
venv=${VENV:-build/venv}
python="env PYTHONDONTWRITEBYTECODE=1 $venv/bin/python"
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
exec dev/run_tests.sh "${tests[@]}"
