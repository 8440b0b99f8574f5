#!/bin/sh
# Makes the Python environment of the scripts in data/ and of the checks against PyTorch: build/venv (or $VENV), about 640 MB to
# download and 1.9 GB on disk, from the package index alone. Run again it does nothing, unless one of its inputs has changed.
# Exit status 69 where no package index can be reached, 1 for any other error.
#
# PyTorch comes without its CUDA libraries (dev/stub_libraries.py says how), so it computes on the CPU only.
# build/venv/transformers-old holds the older transformers: PYTHONPATH=build/venv/transformers-old selects it.
set -eu

dev=$(cd "$(dirname "$0")" && pwd)
venv=${VENV:-$dev/../build/venv}
python=${PYTHON:-python3}

die() {
    echo "setup_venv: $1" >&2
    exit 1
}

command -v "$python" > /dev/null || die "expected Python 3.11 or newer as '$python', found none; install python3"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "expected Python 3.11 or newer, found $("$python" --version 2>&1); name another with PYTHON=..."
stamp="$("$python" -c 'import sys; print(sys.version)') $(cat "$dev/requirements.txt" "$dev/requirements-old.txt" \
    "$dev/stub_libraries.py" "$0" | cksum)"
if [ -f "$venv/stamp" ] && [ "$(cat "$venv/stamp")" = "$stamp" ]; then
    exit 0
fi

echo "setup_venv: making $venv with $("$python" --version) (downloads about 640 MB)"
rm -rf "$venv"
mkdir -p "$(dirname "$venv")"
"$python" -m venv "$venv" ||
    die "python -m venv failed; Debian and Ubuntu keep it in the package python3-venv"

pip() { "$venv/bin/python" -m pip --disable-pip-version-check --quiet "$@"; }
install() {
    pip install --no-deps --no-compile "$@" && return
    # Is it these packages, or is there no index? It has the installer itself.
    if ! pip download --no-deps --retries 1 --timeout 20 --dest "$venv/probe" pip > "$venv/probe.log" 2>&1; then
        echo "setup_venv: no package index can be reached: $(tail -n 1 "$venv/probe.log")" >&2
        exit 69
    fi
    die "pip could not install the packages of $dev; is there room for 1.9 GB under $venv?"
}
echo "setup_venv: installing PyTorch and transformers (dev/requirements.txt)"
install -r "$dev/requirements.txt"
echo "setup_venv: installing the older transformers beside it (dev/requirements-old.txt)"
install -r "$dev/requirements-old.txt" --target "$venv/transformers-old"

site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
if [ "$(uname -s)" = Linux ]; then
    echo "setup_venv: stubs for the CUDA libraries that are left out"
    "$venv/bin/python" "$dev/stub_libraries.py" "$site" ||
        die "no stubs for the CUDA libraries; they need cc, nm and readelf (binutils)"
fi
"$venv/bin/python" - << 'PYTHON' || die "PyTorch was installed but does not work here; see the error above"
import torch
x = torch.randn(8, 8, dtype=torch.float64, requires_grad=True)
torch.linalg.inv(x @ x.T + torch.eye(8)).sum().backward()
assert torch.isfinite(x.grad).all()
print("setup_venv: PyTorch", torch.__version__, "computes on the CPU")
PYTHON
echo "$stamp" > "$venv/stamp"
