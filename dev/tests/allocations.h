// allocations.h - counts what the code after it gets from xalloc(): bytes, which a test sets to 0 first.
#ifndef PONDER_TEST_ALLOCATIONS_H
#define PONDER_TEST_ALLOCATIONS_H

#include "../../common/base.h"

static size_t allocated_bytes;

static inline void* counted_xalloc(size_t count, size_t size, const char* what) {
    allocated_bytes += count * size;
    return xalloc(count, size, what);
}
#define xalloc counted_xalloc

#endif
