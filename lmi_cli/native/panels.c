/* Weights packed into panels, in the order in which every product reads them, and read back. */
#include "linear.h"
#include "pool.h"

enum { IDS = 16 /* rows that are copied at once */ };

typedef struct {
    const bf16 *weight;
    int64_t rows, columns, wide, place;
    bf16 *packed;
} Packing;

static void pack_panel(const void *work, int64_t panel, int64_t thread) {
    const Packing *all = work;
    const int64_t columns = all->columns;
    (void)thread;
    for (int64_t row = 0; row < all->wide; row += LANES)
        for (int64_t column = 0; column < columns; column += 2 * LANES) {
            const int64_t first = panel * all->wide + row;
            pack_pairs(all->weight + first * columns + column, clamp(all->rows - first, 0, LANES), columns,
                 all->packed + panel * PANEL * columns + (column / 2 * PANEL + all->place + row) * 2,
                 2 * PANEL);
        }
}

/* Packs the rows of a weight [rows, columns] into panels; see Part.
 *
 * If `wide` is 64, rows fill whole panels; if it is 32, the half that begins at `place`.
 */
void lmi_pack(const bf16 *weight, int64_t rows, int64_t columns, int64_t wide, int64_t place,
              bf16 *packed) {
    const Packing all = {weight, rows, columns, wide, place, packed};
    pool_run((rows + wide - 1) / wide, pack_panel, &all);
}

typedef struct {
    const Linear *linear;
    const int64_t *ids;
    int64_t count;
    bf16 *out;
} Embedding;

static void embed_codes(const Part *part, int64_t columns, int64_t id, bf16 *out) {
    const int bits = (int)part->bits;
    const int64_t panel = id / PANEL, row = id % PANEL, span = span_of(bits);
    const uint8_t *block = codes_at(part, columns, panel);
    for (int64_t at = 0; at < columns; at += LANES) {
        const int64_t scale = (panel * (columns / span) + at / span) * PANEL + row;
        const float unit = float_of(part->scale[scale]);
        const float below = unit * (float)part->offset +
                            (part->minimum ? float_of(part->minimum[scale]) : 0.0f);
        float value[LANES];
        for (int k = 0; k < LANES; k++)
            value[k] = (float)code_of(bits, block + at / BLOCK * block_bytes(bits), row,
                                      (int)(at % BLOCK) + k);
        narrow(out + at, load(value) * unit - below);
    }
}

static void embed_ids(const void *work, int64_t piece, int64_t thread) {
    const Embedding *all = work;
    const int64_t columns = all->linear->columns;
    (void)thread;
    for (int64_t at = piece * IDS; at < all->count && at < (piece + 1) * IDS; at++) {
        const Part *part = all->linear->parts;
        for (; all->ids[at] >= part->first + part->rows; part++) continue;
        const int64_t id = all->ids[at] - part->first;
        bf16 *out = all->out + at * columns;
        if (part->bits < 16) {
            embed_codes(part, columns, id, out);
            continue;
        }
        const bf16 *from = panel_of(part, columns, id / PANEL) + id % PANEL * 2;
        for (int64_t pair = 0; pair < columns / 2; pair++)
            memcpy(out + 2 * pair, from + pair * 2 * PANEL, 2 * sizeof(bf16));
    }
}

/* Copies rows of a weight to out[count, columns]. */
void lmi_embed(const Linear *linear, const int64_t *ids, int64_t count, bf16 *out) {
    const Embedding all = {linear, ids, count, out};
    pool_run((count + IDS - 1) / IDS, embed_ids, &all);
}
