#!/usr/bin/env bash
# kernels_table.sh [-s PROGRAM] FILE... - what each kernel in programs, objects or cubins needs: registers, bytes of
# local memory, shared memory, threads, and how much of an SM that leaves filled.
#
#   -s PROGRAM   asks `PROGRAM --shared` for the dynamic shared memory of kernels, in lines "NAME BYTES" (the
#                test program gpu_attention knows it). Without it the column shows "?" for such kernels, and
#                their occupancy is what registers and static shared memory would allow.
#
# Exits with 1, naming the kernel, when
#   - a hot kernel uses local memory: a stack frame, or STL or LDL among its instructions. That is what spilled
#     registers become, and local arrays too; neither has a place there;
#   - an attention kernel for the tensor cores lacks HMMA (mma), LDSM (ldmatrix), LDGSTS (cp.async) or accesses
#     of 128 bits to global memory, or is missing from a program that has the plain one in bf16; on sm_90a one for
#     warpgroups lacks HGMMA (wgmma), LDGSTS or those accesses, or is missing;
#   - a block could not run on every card: more than 99 KB of shared memory, or occupancy 0 (kernels for warpgroups are
#     for sm_90a alone, and empty elsewhere).
#
# Needs cuobjdump and nvdisasm, parts of the CUDA Toolkit (or: pip install nvidia-cuda-cuobjdump
# nvidia-cuda-nvdisasm); c++filt for readable names.
set -u -o pipefail

hot='attention|cache_|norm|mix|cross_entropy|softmax|gelu|swiglu|adamw|rotary|position|add_kernel|embedding|column_|sample|few_'

stop() { printf 'error: %s\n' "$*" >&2; exit 1; }
shared_program=
if [ "${1:-}" = -s ]; then
    [ $# -ge 2 ] || stop "-s needs a program"
    shared_program=$2
    shift 2
fi
[ $# -ge 1 ] || stop "usage: dev/kernels_table.sh [-s PROGRAM] FILE..."

for bin in /usr/local/cuda/bin "${CUDA_HOME:-/usr/local/cuda}/bin" "$(dirname "${NVCC:-.}")"; do PATH=$PATH:$bin; done
command -v cuobjdump >/dev/null || stop "no cuobjdump found; it is part of the CUDA Toolkit, or: pip install nvidia-cuda-cuobjdump nvidia-cuda-nvdisasm"
command -v nvdisasm >/dev/null || stop "no nvdisasm found, which cuobjdump calls; it is part of the CUDA Toolkit, or: pip install nvidia-cuda-nvdisasm"
demangle=cat
if command -v c++filt >/dev/null; then demangle=c++filt; elif command -v cu++filt >/dev/null; then demangle=cu++filt; fi

tmp=$(mktemp -d) || exit 1
trap 'rm -rf "$tmp"' EXIT
: >"$tmp/shared"
if [ -n "$shared_program" ]; then
    "$shared_program" --shared >"$tmp/shared" || stop "$shared_program --shared failed"
fi

# One line for each kernel of a cubin: mangled name, registers, stack and local bytes, static shared bytes, most
# threads of a block (0: not bounded), and how many instructions of each kind.
describe() { # CUBIN
    {
        cuobjdump -res-usage "$1" | sed 's/^/U /' &&
            cuobjdump -elf "$1" | sed -nE '/^\.nv\.info\.|EIATTR_|Value:|NOBITS.*\.nv\.shared\./s/^/E /p' &&
            cuobjdump -sass "$1" | sed 's/^/S /'
    } >"$tmp/dump" || stop "cuobjdump cannot read $1"
    awk '
        $1 == "U" && $2 == "Function" { name = $3; sub(/:$/, "", name); order[++count] = name; next }
        $1 == "U" && $2 ~ /^REG:/ {
            for (i = 2; i <= NF; i++) { split($i, part, ":"); used[name, part[1]] = part[2] }
            next
        }
        # number, offset, size, ..., NOBITS, ..., name; sizes are hexadecimal
        $1 == "E" && /nv\.shared\.reserved/ { reserved = 1024; next }  # the 1 KB a block that sm_90 counts as static
        $1 == "E" && /NOBITS/ { at = $NF; sub(/^\.nv\.shared\./, "", at); fixed[at] = hex($4); next }
        $1 == "E" && $2 ~ /^\.nv\.info\./ { at = $2; sub(/^\.nv\.info\./, "", at); attribute = ""; next }
        $1 == "E" && /EIATTR_/ { attribute = $NF; next }
        $1 == "E" && /Value:/ { if (attribute == "EIATTR_MAX_THREADS") threads[at] = hex($3) * hex($4) * hex($5); attribute = ""; next }
        $1 == "S" && $2 == "Function" { name = $4; next }
        $1 == "S" && $2 ~ /^\/\*[0-9a-f]+\*\/$/ {
            code = $3 ~ /^@/ ? $4 : $3
            is[name]++
            kind = code; sub(/\..*/, "", kind)
            if (kind == "STL" || kind == "LDL") local[name]++
            if (kind == "HMMA" || kind == "HGMMA") mma[name]++
            if (kind == "LDSM") matrix[name]++
            if (kind == "LDGSTS") copies[name]++
            if ((kind == "LDGSTS" || kind == "LDG") && code ~ /\.128/) wide[name]++
        }
        function hex(text,   n, i) {
            n = 0; sub(/^0x/, "", text)
            for (i = 1; i <= length(text); i++) n = n * 16 + index("0123456789abcdef", tolower(substr(text, i, 1))) - 1
            return n
        }
        END {
            for (i = 1; i <= count; i++) {
                name = order[i]
                if (!is[name]) continue  # nothing but a function that kernels call
                print name, used[name, "REG"], used[name, "STACK"], used[name, "LOCAL"], (fixed[name] > reserved ? fixed[name] - reserved : 0), threads[name] + 0, is[name], local[name] + 0, mma[name] + 0, matrix[name] + 0, copies[name] + 0, wide[name] + 0
            }
        }' "$tmp/dump"
}

: >"$tmp/rows"
for file in "$@"; do
    [ -f "$file" ] || stop "no file $file"
    rm -rf "$tmp/cubins" && mkdir "$tmp/cubins"
    case $file in
    *.cubin) cp "$file" "$tmp/cubins/" ;;
    *)
        from=$(cd "$(dirname "$file")" && pwd)/$(basename "$file")
        (cd "$tmp/cubins" && cuobjdump -xelf all "$from" >/dev/null 2>&1)
        ;;
    esac
    set -- "$tmp"/cubins/*
    [ -f "$1" ] || stop "$file holds no code for a GPU"
    for cubin in "$@"; do
        arch=$(cuobjdump -sass "$cubin" | sed -n 's/^[[:space:]]*code for sm_//p' | head -n 1)
        describe "$cubin" | while IFS= read -r row; do printf '%s %s %s\n' "$(basename "$file")" "${arch:-?}" "$row"; done >>"$tmp/rows" || exit 1
    done
done
[ -s "$tmp/rows" ] || stop "no kernel found in these files"

# Readable names in a column of their own: "void f<64, 1>(...)" and "f(...)" become "f<64,1>".
awk '{ print $3 }' "$tmp/rows" | $demangle | sed -E 's/^void //; s/\(int\)//g; s/\(anonymous namespace\):://g' >"$tmp/full"
sed -E 's/\(.*//; s/, /,/g; s/ //g' "$tmp/full" >"$tmp/names"
awk '{ print ($0 ~ /\(__nv_bfloat16/) ? "bf16" : "-" }' "$tmp/full" >"$tmp/types"
paste -d' ' "$tmp/names" "$tmp/types" "$tmp/rows" >"$tmp/table"

awk -v hot="$hot" -v shared_file="$tmp/shared" -v asked="$shared_program" '
    function floor_to(x, unit) { return int(x / unit) * unit }
    function up_to(x, unit) { return int((x + unit - 1) / unit) * unit }
    function least(a, b) { return a < b ? a : b }
    # An SM: KB of shared memory, warps, blocks (CUDA C Programming Guide, compute capabilities).
    function sm(arch, what) {
        if (!(arch in kb)) return 0
        return what == "kb" ? kb[arch] : what == "warps" ? warps[arch] : blocks[arch]
    }
    # Blocks that fit on an SM at once: registers come in units of 256 a warp, from four parts of 16,384 each;
    # each block takes 1 KB of shared memory besides its own, in units of 128 bytes.
    function fit(arch, registers, threads, shared,   w, n) {
        w = up_to(threads, 32) / 32
        n = least(sm(arch, "blocks"), int(sm(arch, "warps") / w))
        n = least(n, int(int(16384 / up_to(registers * 32, 256)) * 4 / w))
        return least(n, int(sm(arch, "kb") * 1024 / (up_to(shared, 128) + 1024)))
    }
    function bad(text) { complaints[++wrong] = text }
    BEGIN {
        split("80 164 64 32 86 100 48 16 87 164 48 16 89 100 48 24 90 228 64 32 90a 228 64 32 100 228 64 32 103 228 64 32 110 228 48 24 120 100 48 24 121 100 48 24", l, " ")
        for (i = 1; i in l; i += 4) { kb[l[i]] = l[i + 1]; warps[l[i]] = l[i + 2]; blocks[l[i]] = l[i + 3] }
        while ((getline line < shared_file) > 0) {
            n = split(line, part, " ")
            name = part[1]
            for (i = 2; i < n; i++) name = name part[i]
            dynamic[name] = part[n]
        }
        form = "%-44s %5s %5s %6s %8s %9s %8s %7s %11s %7s %6s %6s\n"
    }
    {
        name = $1; type = $2; file = $3; arch = $4
        registers = $6; stack = $7 + $8; fixed = $9; threads = $10; is = $11; local = $12; mma = $13; matrix = $14; copies = $15; quads = $16
        if (file != file_before) {
            printf("%s%s\n", (NR > 1 ? "\n" : ""), file)
            printf(form, "kernel", "sm", "regs", "local", "static", "dynamic", "threads", "blocks", "occupancy", "instr", "mma", "ldsm")
        }
        file_before = file
        where = sprintf("%s for sm_%s in %s", name, arch, file)
        wide = name ~ /^attention_(forward|backward)_wgmma_kernel/
        attention = name ~ /^attention_/
        # A row of logits that is held on chip, at its longest.
        if (name ~ /_rows_kernel<1/ && name !~ /^few_/) dynamic[name] = 99 * 1024 - up_to(fixed, 128)
        if (name ~ /^sample_rows_kernel/) dynamic[name] = 2 * 3 * 2048 * 4  # its bins
        known = name in dynamic
        shared = fixed + (known ? dynamic[name] : 0)
        n = threads && sm(arch, "kb") ? fit(arch, registers, threads, shared) : -1
        unknown = attention && !known && name !~ /delta/
        filled = n < 0 ? "-" : sprintf("%.0f %%", 100 * n * up_to(threads, 32) / 32 / sm(arch, "warps"))
        printf(form, name, arch, registers, stack, fixed, (known ? dynamic[name] : unknown ? "?" : 0), (threads ? threads : "-"),
            (n < 0 ? "-" : n), filled, is, (mma ? mma : "-"), (matrix ? matrix : "-"))
        if (name ~ hot && (stack > 0 || local > 0))
            bad(sprintf("%s uses local memory (%d bytes, %d loads and stores): registers are spilled or an array has no fixed indices", where, stack, local))
        if (wide && arch != "90a") next
        most = wide ? 227 : 99
        if (shared > most * 1024) bad(sprintf("%s needs %d bytes of shared memory a block; cards of sm_%s have %d", where, shared, wide ? "90" : "86", most * 1024))
        if (n == 0) bad(where " does not fit on an SM")
        if (name ~ /^attention_(forward|backward)_kernel/) {
            tiled[file, arch]++
            missing = (mma ? "" : ", HMMA (mma)") (matrix ? "" : ", LDSM (ldmatrix)") (copies ? "" : ", LDGSTS (cp.async)") (quads ? "" : ", loads of 128 bits")
            if (missing != "") bad(where " has no" substr(missing, 2))
        }
        if (wide) {
            warpgroups[file]++
            missing = (mma ? "" : ", HGMMA (wgmma)") (copies ? "" : ", LDGSTS (cp.async)") (quads ? "" : ", loads of 128 bits")
            if (missing != "") bad(where " has no" substr(missing, 2))
        }
        if (name ~ /^attention_forward_plain_kernel/ && type == "bf16") plain[file, arch] = 1
        if (asked != "" && unknown) bad(sprintf("%s --shared does not tell the shared memory of %s", asked, name))
    }
    END {
        for (at in plain) {
            if (!tiled[at]) { split(at, part, SUBSEP); bad(sprintf("%s for sm_%s has no attention kernel for the tensor cores", part[1], part[2])) }
            if (at ~ SUBSEP "90a$") { split(at, part, SUBSEP); if (warpgroups[part[1]] != 12) bad(sprintf("%s for sm_90a has %d attention kernels for warpgroups, expected 12: three of each of four head sizes", part[1], warpgroups[part[1]])) }
        }
        printf "\n%d kernels; local: bytes of local memory a thread; blocks: on an SM at once\n", NR
        for (i = 1; i <= wrong; i++) print "error: " complaints[i]
        exit (wrong > 0)
    }' "$tmp/table"
