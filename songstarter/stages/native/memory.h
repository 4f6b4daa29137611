/* Memory that is walked through at full speed: on huge pages, whose addresses are quickly looked up. */

#ifndef SONGSTARTER_MEMORY_H
#define SONGSTARTER_MEMORY_H

#include <stdlib.h>
#include <sys/mman.h>

enum { LINE = 64, HUGE_PAGE = 2 << 20 };

/* NULL where memory is short; `free` gives it back. */
static void *allocate(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, bytes < HUGE_PAGE ? LINE : HUGE_PAGE, bytes))
        return NULL;
    if (bytes >= HUGE_PAGE)
        madvise(memory, bytes, MADV_HUGEPAGE); /* a wish: small pages do as well */
    return memory;
}

static float *floats(size_t count) { return allocate(count * sizeof(float)); }

#endif
