"""Makes PyTorch's CUDA wheel importable on a machine without CUDA: empty libraries in place of gigabytes.

The PyTorch wheel that the package index serves for Linux links against cuBLAS, cuDNN, NCCL and others, which come as
separate wheels of 2.7 GB. A program that computes on the CPU never calls into them, but the dynamic linker insists on
every library and every symbol. So for each library that a .so of the wheel names and nobody provides, this script
compiles one with the same name and the wanted symbols, all of which abort when called. It goes where the
wheel looks for the real ones, and a real one that is installed later can simply overwrite it.

    usage: stub_libraries.py SITE_PACKAGES       needs cc, nm and readelf; prints one line for each library made
"""

import collections
import glob
import os
import re
import subprocess
import sys


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    site = sys.argv[1]
    torch_libraries = sorted(glob.glob(site + "/torch/lib/*.so*") + glob.glob(site + "/torch/_C.*.so"))
    if not torch_libraries:
        sys.exit(f"{site}: expected torch/lib/*.so there, found none; is PyTorch installed?")

    # Libraries that the wheel needs, and those that somebody has: the wheel itself, nvidia-* wheels, the system.
    needed, search_path = set(), []
    for path in torch_libraries:
        dynamic = output_of("readelf", "-dW", path)
        needed.update(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
        for found in re.findall(r"\((?:RPATH|RUNPATH)\).*\[(.*)\]", dynamic):
            for folder in found.split(":"):
                folder = os.path.normpath(folder.replace("$ORIGIN", os.path.dirname(path)))
                if folder not in search_path:
                    search_path.append(folder)
    # Of CUDA libraries of the system none counts: they may be of another version than the wheel's.
    cuda = re.compile(r"lib(cu|nccl|nv)\w*\.so")
    wanted = sorted(name for name in needed if cuda.match(name) and name != "libcuda.so.1"
                    and not any(os.path.exists(os.path.join(folder, name)) for folder in search_path))
    if not wanted:
        return

    # Undefined symbols, handed to the library that their version names ("f@libcublas.so.13") or, where a
    # library has no versions, to the one whose name they begin with ("ncclSend" to libnccl.so.2).
    symbols = collections.defaultdict(lambda: collections.defaultdict(set))     # library -> version -> names
    prefixes = {re.match(r"lib([A-Za-z]+)", name).group(1).lower(): name for name in wanted}
    for line in output_of("nm", "-D", "--undefined-only", *torch_libraries).splitlines():
        words = line.split()
        if len(words) != 2 or words[0] != "U":
            continue
        name, _, version = words[1].partition("@")
        library = version.lstrip("@")
        if library not in wanted:
            matching = [p for p in prefixes if name.lower().startswith(p)]
            if not matching:
                continue
            library = prefixes[max(matching, key=len)]
        symbols[library][version.lstrip("@")].add(name)

    # The first nvidia folder of the search path that exists already, so that everything stays inside site-packages.
    folder = next((f for f in search_path if "nvidia" in f and os.path.isdir(f)), search_path[0])
    for library in wanted:
        stem = os.path.join(folder, library)
        source = ["/* made by dev/stub_libraries.py: nothing here may be called */", "#include <stdlib.h>"]
        script = []
        for version, names in sorted(symbols[library].items()):
            source += [f"void {name}(void) {{ abort(); }}" for name in sorted(names)]
            if version:
                script.append(f"{version} {{ global: {' '.join(n + ';' for n in sorted(names))} }};")
        with open(stem + ".stub.c", "w") as f:
            f.write("\n".join(source) + "\n")
        command = [os.environ.get("CC", "cc"), "-shared", "-fPIC", "-w", "-O0", f"-Wl,-soname,{library}", "-o", stem,
                   stem + ".stub.c"]
        if script:
            with open(stem + ".stub.map", "w") as f:
                f.write("\n".join(script) + "\n")
            command.append(f"-Wl,--version-script,{stem}.stub.map")
        subprocess.run(command, check=True)
        print(f"  stub for {library} ({sum(map(len, symbols[library].values()))} symbols)")


if __name__ == "__main__":
    main()
