// kept.c - a trainer that stores bf16 between its layers, for test_kept.h: compiled with -DKEPT=Bf16.
#include TRAINER
#define TEST_ARCHITECTURE ARCHITECTURE
#define TEST_KEY_BIAS ""

#include "kept_trace.h"

void kept_trace_bf16(Trace* trace) { trace_models(trace); }
