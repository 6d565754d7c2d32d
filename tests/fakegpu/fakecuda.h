/* What a program that has the fake driver inside calls (fakecuda.c). */
#include <stddef.h>

int fake_start(int index);
/* Use the index-th GPU whose device can be opened; 0, or a CUresult. */

void *fake_allocate(size_t size);
/* Device memory; touched between fake_enter and fake_leave alone. */

void fake_allocate_managed(void);
/* From here on a checkpoint is refused, as with managed memory. */

void fake_enter(void);
void fake_leave(void);
/* Around each piece of work on the GPU: it begins only while the process is not locked. */

const char *fake_gpu(void);
/* UUID of the GPU. */
