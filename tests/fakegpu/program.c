/* A program that uses the fake GPU: it computes there step after step, and checks every result.
 *
 *     program [--children N] [--mib N] [--step-ms N] [--gpu N] [--managed] [--parent-idle]
 *             [--forever]
 *
 * Each process prints "PID step N ok GPU-…" about every 50 ms, or "… WRONG …". With children (each
 * started by exec) there are N + 1 users, or N with --parent-idle. What it should find on the GPU
 * is computed from the number of the step alone. --forever: an idle parent stays without children.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fakecuda.h"

static uint64_t value(uint64_t step, uint64_t index)
{
    uint64_t x = step * 0x9e3779b97f4a7c15u + index;
    x ^= x >> 29;
    x *= 0xbf58476d1ce4e5b9u;
    return x ^ x >> 32;
}

static void rest(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&left, NULL);
}

static int compute(int index, size_t size, int step_ms, int managed)
{
    int result = fake_start(index);
    if (result) {
        printf("%d no GPU: %d\n", getpid(), result);
        return 3;
    }
    if (managed)
        fake_allocate_managed();
    uint64_t *memory = fake_allocate(size), count = size / sizeof *memory;
    if (!memory)
        return 4;
    fake_enter();
    for (uint64_t i = 0; i < count; i++)
        memory[i] = value(0, i);
    fake_leave();
    for (uint64_t step = 1;; step++) {
        int good = 1;
        fake_enter();
        rest(step_ms);
        for (uint64_t i = 0; i < count; i++) {
            good &= memory[i] == value(step - 1, i);
            memory[i] = value(step, i);
        }
        fake_leave();
        printf("%d step %lu %s %s\n", getpid(), step, good ? "ok" : "WRONG", fake_gpu());
        rest(50);
    }
}

int main(int count, char **words)
{
    int children = 0, mib = 1, step_ms = 5, managed = 0, idle = 0, forever = 0, gpu = 0;
    char *arguments[32];
    int given = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    arguments[given++] = words[0];
    for (int i = 1; i < count; i++) {
        if (!strcmp(words[i], "--managed"))
            managed = 1;
        else if (!strcmp(words[i], "--parent-idle")) {
            idle = 1;
            continue;
        } else if (!strcmp(words[i], "--forever")) {
            forever = 1;
            continue;
        } else if (i + 1 < count && !strcmp(words[i], "--children")) {
            children = atoi(words[++i]);
            continue;
        } else if (i + 1 < count) {
            int number = atoi(words[i + 1]);
            if (!strcmp(words[i], "--mib"))
                mib = number;
            else if (!strcmp(words[i], "--step-ms"))
                step_ms = number;
            else if (!strcmp(words[i], "--gpu"))
                gpu = number;
            if (given < 28)
                arguments[given++] = words[i++];
        }
        if (given < 30)
            arguments[given++] = words[i];
    }
    arguments[given] = NULL;
    for (int i = 0; i < children; i++)
        if (!fork()) {
            execv("/proc/self/exe", arguments);
            _exit(9);
        }
    if (!idle)
        return compute(gpu, (size_t)mib << 20, step_ms, managed);
    while (wait(NULL) > 0) {}
    if (forever)
        pause();
    return 0;
}
