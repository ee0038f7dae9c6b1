/* Threads that share the work of a kernel. */
#ifndef LMI_POOL_H
#define LMI_POOL_H

#include <stdint.h>

/* One piece of some work. `thread` is below pool_threads(), and 0 for the thread that asks. */
typedef void Piece(const void *work, int64_t piece, int64_t thread);

/* Computes pieces 0 to pieces - 1 in any order on any threads; returns once all are complete. */
void pool_run(int64_t pieces, Piece *compute, const void *work);

int64_t pool_threads(void);

#endif
