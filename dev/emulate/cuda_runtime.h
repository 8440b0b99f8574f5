// cuda_runtime.h - stands in for the CUDA Toolkit's header of that name in programs under the emulator.
#include "emulate.h"
