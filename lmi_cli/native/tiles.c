/* Whether the matrix unit is used. */
#define _GNU_SOURCE
#include "tiles.h"

#ifdef LMI_HAS_TILES
#include <sys/syscall.h>
#include <unistd.h>
#endif

static _Atomic bool used;

bool uses_tiles(void) { return used; }

/* Uses the matrix unit from now on, or no longer. Returns whether it is used.
 *
 * The caller has to know that the processor has one; the system has to allow it.
 */
int lmi_tiles(int64_t wanted) {
#ifdef LMI_HAS_TILES
    enum { ALLOW = 0x1023, TILES = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    used = wanted && syscall(SYS_arch_prctl, ALLOW, TILES) == 0;
#else
    (void)wanted;
#endif
    return used;
}
