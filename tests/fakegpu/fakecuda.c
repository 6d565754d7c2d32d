/* A CUDA driver without a GPU: the calls of libcuda.so.1 that a checkpoint needs, and their states.
 *
 * Built as a shared library it is the node's libcuda.so.1; built into a program it is the driver
 * inside that program. As with NVIDIA's, each process that uses CUDA has a thread that answers the
 * calls about it, through pipes of the process that the caller opens below /proc/PID/fd. So the
 * state travels with the process, a stopped process does not answer, and while one is locked its
 * CUDA calls block.
 *
 * HOME, /run/fakegpu, is on the node and, by a bind mount, at the same place in the containers:
 *   gpus      a GPU a line: UUID N memory-MiB free-MiB model     (N is that of /dev/nvidiaN)
 *   version   what cuDriverGetVersion tells; 13000 when absent
 *   delays    milliseconds of: init lock checkpoint restore unlock
 *   faults/   CALL-PID or CALL-any: "error CODE SKIP TIMES", "hang 0 SKIP TIMES",
 *             "lost 0 SKIP TIMES" (the process fails); SKIP calls go well before, -1 is ever
 *   log       a call a line: CALL PID begin-ns end-ns RESULT
 *   UUID/     the device memory: unlinked files, mapped into the processes
 * A device is a character device that CRIU refuses to dump while it is open.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fakecuda.h"

#define HOME "FAKEGPU_HOME", "/run/fakegpu"
#define DEVICE "FAKEGPU_DEVICE", "/dev/nvidia"
#define TMP "FAKEGPU_TMP", "/tmp" /* where a process tells its pipes, inside the container */
#define LONGEST 512
#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID = 1, NO_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100,
       SYSTEM = 304, ILLEGAL_STATE = 401, NOT_READY = 600, NOT_SUPPORTED = 801, UNKNOWN = 999 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED };
enum { STATE, LOCK, CHECKPOINT, RESTORE, UNLOCK, LOSE };

static const char *CALLS[] = {"state", "lock", "checkpoint", "restore", "unlock", "lose"};

struct request {
    uint64_t id;
    int call;
    unsigned timeout_ms;
    unsigned delay_ms;
    int pairs;
    unsigned char old[8][16], new[8][16];
};
struct answer {
    uint64_t id;
    int result;
    int state;
};
struct gpu {
    char uuid[48], model[64];
    int number;
    long memory, free;
};

/* A path below one of the three places, which an environment variable may move. */
__attribute__((format(printf, 4, 5))) static char *place(char *path, const char *variable,
                                                         const char *usual, const char *form, ...)
{
    const char *moved = getenv(variable);
    va_list more;
    int length = sprintf(path, "%s", moved ? moved : usual);
    va_start(more, form);
    vsnprintf(path + length, LONGEST - length, form, more);
    va_end(more);
    return path;
}

static FILE *home(const char *name)
{
    char path[LONGEST];
    return fopen(place(path, HOME, "/%s", name), "re");
}

static void rest(long ms)
{
    struct timespec left = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&left, &left) && errno == EINTR) {}
}

static long long now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static int read_gpus(struct gpu *gpus, int max)
{
    FILE *file = home("gpus");
    int count = 0;
    if (!file)
        return 0;
    while (count < max && fscanf(file, "%47s %d %ld %ld %63[^\n]", gpus[count].uuid,
                                 &gpus[count].number, &gpus[count].memory, &gpus[count].free,
                                 gpus[count].model) == 5)
        count++;
    fclose(file);
    return count;
}

static void uuid_text(const unsigned char *b, char *text)
{
    sprintf(text, "GPU-%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x", b[0],
            b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10], b[11], b[12], b[13], b[14],
            b[15]);
}

/* -- inside a process that uses CUDA ------------------------------------------------------- */

struct memory {
    void *at, *saved;
    size_t size;
    struct memory *next;
};

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t moved = PTHREAD_COND_INITIALIZER;
static int state = RUNNING, busy, uses_managed, ready;
static int device = -1;
static struct gpu mine;
static struct memory *memories;
static int commands[2], answers[2];

void fake_enter(void)
{
    pthread_mutex_lock(&gate);
    while (state != RUNNING)
        pthread_cond_wait(&moved, &gate);
    busy++;
    pthread_mutex_unlock(&gate);
}

void fake_leave(void)
{
    pthread_mutex_lock(&gate);
    busy--;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&gate);
}

static int open_device(const struct gpu *gpu)
{
    char path[LONGEST];
    device = open(place(path, DEVICE, "%d", gpu->number), O_RDWR | O_CLOEXEC);
    return device < 0 ? UNKNOWN : SUCCESS;
}

static int map_device(const struct gpu *gpu, void *at, size_t size, void **result)
{
    char path[LONGEST];
    int fd = mkostemp(place(path, HOME, "/%s/XXXXXX", gpu->uuid), O_CLOEXEC);
    if (fd < 0)
        return UNKNOWN;
    unlink(path);
    void *found = MAP_FAILED;
    if (!ftruncate(fd, size))
        found = mmap(at, size, PROT_READ | PROT_WRITE, MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
    close(fd);
    *result = found;
    return found == MAP_FAILED ? NO_MEMORY : SUCCESS;
}

static int do_lock(unsigned timeout_ms)
{
    struct timespec end;
    int result = SUCCESS;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += timeout_ms / 1000;
    end.tv_nsec += timeout_ms % 1000 * 1000000L;
    if (end.tv_nsec >= 1000000000L)
        end.tv_sec++, end.tv_nsec -= 1000000000L;
    pthread_mutex_lock(&gate);
    state = LOCKED;
    while (busy && result == SUCCESS)
        if (pthread_cond_timedwait(&moved, &gate, &end))
            result = NOT_READY;
    if (result != SUCCESS) {
        state = RUNNING;
        pthread_cond_broadcast(&moved);
    }
    pthread_mutex_unlock(&gate);
    return result;
}

static int do_checkpoint(void)
{
    if (uses_managed)
        return NOT_SUPPORTED;
    for (struct memory *one = memories; one; one = one->next) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS;
        one->saved = mmap(NULL, one->size, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (one->saved == MAP_FAILED)
            return NO_MEMORY;
        memcpy(one->saved, one->at, one->size);
        /* The addresses stay taken, as those of device memory do. */
        mmap(one->at, one->size, PROT_NONE, flags | MAP_FIXED | MAP_NORESERVE, -1, 0);
    }
    close(device);
    device = -1;
    state = CHECKPOINTED;
    return SUCCESS;
}

static int do_restore(const struct request *request)
{
    struct gpu gpus[16], *target = NULL;
    int count = read_gpus(gpus, 16);
    char wanted[64] = "", text[64];
    if (!request->pairs)
        strcpy(wanted, mine.uuid);
    for (int i = 0; i < request->pairs; i++) {
        uuid_text(request->old[i], text);
        if (!strcmp(text, mine.uuid))
            uuid_text(request->new[i], wanted);
    }
    for (int i = 0; i < count; i++)
        if (!strcmp(gpus[i].uuid, wanted) && !strcmp(gpus[i].model, mine.model))
            target = &gpus[i];
    if (!target)
        return INVALID;
    long needed = 0;
    for (struct memory *one = memories; one; one = one->next)
        needed += one->size >> 20;
    if (needed > target->free)
        return NO_MEMORY;
    int result = open_device(target);
    for (struct memory *one = memories; one && result == SUCCESS; one = one->next) {
        void *at;
        result = map_device(target, one->at, one->size, &at);
        if (result == SUCCESS) {
            memcpy(one->at, one->saved, one->size);
            munmap(one->saved, one->size);
        }
    }
    if (result == SUCCESS) {
        mine = *target;
        state = LOCKED;
    }
    return result;
}

static int perform(const struct request *request)
{
    static const int from[] = {-1, RUNNING, LOCKED, CHECKPOINTED, LOCKED, -1};
    if (request->call == STATE)
        return SUCCESS;
    if (request->call == LOSE) {
        state = FAILED;
        return SUCCESS;
    }
    if (state != from[request->call])
        return ILLEGAL_STATE;
    rest(request->delay_ms);
    if (request->call == LOCK)
        return do_lock(request->timeout_ms);
    if (request->call == CHECKPOINT)
        return do_checkpoint();
    if (request->call == RESTORE)
        return do_restore(request);
    pthread_mutex_lock(&gate);
    state = RUNNING;
    pthread_cond_broadcast(&moved);
    pthread_mutex_unlock(&gate);
    return SUCCESS;
}

static void *attend(void *unused)
{
    struct request request;
    (void)unused;
    for (;;) {
        ssize_t got = read(commands[0], &request, sizeof request);
        if (got != sizeof request) {
            if (got < 0 && errno == EINTR)
                continue;
            return NULL;
        }
        struct answer answer = {request.id, perform(&request), 0};
        answer.state = state;
        if (write(answers[1], &answer, sizeof answer) != sizeof answer)
            return NULL;
    }
}

int fake_start(int index)
{
    struct gpu gpus[16];
    int count = read_gpus(gpus, 16), seen = 0, result = NO_DEVICE;
    char path[LONGEST];
    pthread_t thread;
    for (int i = 0; i < count && result != SUCCESS; i++) {
        mine = gpus[i];
        if (open_device(&mine) != SUCCESS)
            continue;
        if (seen++ == index)
            result = SUCCESS;
        else
            close(device);
    }
    if (result != SUCCESS)
        return result;
    if (pipe2(commands, O_CLOEXEC) || pipe2(answers, O_CLOEXEC))
        return SYSTEM;
    FILE *file = fopen(place(path, TMP, "/.fakecuda-%d", getpid()), "we");
    if (!file)
        return SYSTEM;
    fprintf(file, "%d %d\n", commands[1], answers[0]);
    fclose(file);
    if (pthread_create(&thread, NULL, attend, NULL))
        return SYSTEM;
    ready = 1;
    return SUCCESS;
}

void *fake_allocate(size_t size)
{
    struct memory *one = calloc(1, sizeof *one);
    if (!one || map_device(&mine, NULL, size, &one->at) != SUCCESS)
        return NULL;
    one->size = size;
    one->next = memories;
    memories = one;
    return one->at;
}

void fake_allocate_managed(void) { uses_managed = 1; }

const char *fake_gpu(void) { return mine.uuid; }

/* -- the node's libcuda.so.1: calls about another process ----------------------------------- */

static unsigned delay_of(int call)
{
    unsigned ms[6] = {0};
    FILE *file = home("delays");
    if (!file)
        return 0;
    /* init lock checkpoint restore unlock; the place of init is that of STATE. */
    if (fscanf(file, "%u %u %u %u %u", ms, ms + 1, ms + 2, ms + 3, ms + 4) < 5)
        memset(ms, 0, sizeof ms);
    fclose(file);
    return ms[call];
}

static int fault(const char *call, int pid, char *what)
{
    char paths[2][LONGEST], *path = NULL;
    int code = 0, skip = 0, times = 0;
    place(paths[0], HOME, "/faults/%s-%d", call, pid);
    place(paths[1], HOME, "/faults/%s-any", call);
    for (int i = 0; i < 2 && !path; i++)
        if (!access(paths[i], F_OK))
            path = paths[i];
    FILE *file = path ? fopen(path, "r+e") : NULL;
    if (!file || fscanf(file, "%15s %d %d %d", what, &code, &skip, &times) != 4) {
        *what = 0;
        if (file)
            fclose(file);
        return 0;
    }
    char kind[16];
    strcpy(kind, what);
    if (skip > 0) {
        skip--;
        *what = 0;
    } else if (times == 0) {
        *what = 0;
    } else if (times > 0) {
        times--;
    }
    rewind(file);
    fprintf(file, "%s %d %d %d\n", kind, code, skip, times);
    fclose(file);
    return *what ? code : 0;
}

static int inner_pid(int pid)
{
    char path[64], line[256];
    int inner = -1;
    sprintf(path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (!strncmp(line, "NSpid:", 6))
            for (char *word = strtok(line + 6, " \t\n"); word; word = strtok(NULL, " \t\n"))
                inner = atoi(word);
    if (file)
        fclose(file);
    return inner;
}

static int transact(int pid, struct request *request, struct answer *answer)
{
    char path[LONGEST], below[LONGEST];
    int numbers[2], ends[2], inner = inner_pid(pid);
    struct stat status;
    if (inner < 0)
        return SYSTEM;
    snprintf(path, sizeof path, "/proc/%d/root%.400s", pid,
             place(below, TMP, "/.fakecuda-%d", inner));
    FILE *file = fopen(path, "re");
    if (!file)
        return NOT_INITIALIZED;
    int words = fscanf(file, "%d %d", numbers, numbers + 1);
    fclose(file);
    if (words != 2)
        return NOT_INITIALIZED;
    for (int i = 0; i < 2; i++) {
        sprintf(path, "/proc/%d/fd/%d", pid, numbers[i]);
        ends[i] = open(path, (i ? O_RDONLY : O_WRONLY) | O_CLOEXEC);
        if (ends[i] < 0 || fstat(ends[i], &status) || !S_ISFIFO(status.st_mode))
            return NOT_INITIALIZED;
    }
    flock(ends[0], LOCK_EX); /* one caller at a time: another one could read this one's answer */
    request->id = (uint64_t)now_ns() ^ (uint64_t)syscall(SYS_gettid) << 44;
    int result = SYSTEM;
    if (write(ends[0], request, sizeof *request) == sizeof *request)
        for (;;) {
            /* An answer to a caller that was killed may come first. */
            if (read(ends[1], answer, sizeof *answer) != sizeof *answer)
                break;
            if (answer->id == request->id) {
                result = answer->result;
                break;
            }
        }
    close(ends[0]);
    close(ends[1]);
    return result;
}

static int call(int pid, struct request *request, int *found)
{
    struct answer answer = {0};
    const char *name = CALLS[request->call];
    int inner = inner_pid(pid), result;
    long long begin = now_ns();
    char what[16], line[160];
    int code = fault(name, inner, what);
    if (!strcmp(what, "hang"))
        for (;;)
            pause();
    if (!strcmp(what, "error")) {
        rest(delay_of(request->call));
        result = code;
    } else {
        if (!strcmp(what, "lost"))
            request->call = LOSE;
        request->delay_ms = request->call == STATE ? 0 : delay_of(request->call);
        result = transact(pid, request, &answer);
        if (!strcmp(what, "lost") && result == SUCCESS)
            result = UNKNOWN;
    }
    if (found && result == SUCCESS)
        *found = answer.state;
    if (strcmp(name, "state")) {
        int length = sprintf(line, "%s %d %lld %lld %d\n", name, inner, begin, now_ns(), result);
        char path[LONGEST];
        int log = open(place(path, HOME, "/log"), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        if (log >= 0 && write(log, line, length) < 0)
            result = SYSTEM;
        close(log);
    }
    return result;
}

EXPORT int cuInit(unsigned flags)
{
    char what[16];
    (void)flags;
    int code = fault("init", 0, what);
    rest(delay_of(STATE));
    return !strcmp(what, "error") ? code : SUCCESS;
}

EXPORT int cuDriverGetVersion(int *version)
{
    FILE *file = home("version");
    *version = 13000;
    if (file) {
        if (fscanf(file, "%d", version) != 1)
            *version = 13000;
        fclose(file);
    }
    return SUCCESS;
}

EXPORT int cuGetErrorName(int code, const char **text)
{
    *text = code == INVALID           ? "CUDA_ERROR_INVALID_VALUE"
            : code == NO_MEMORY       ? "CUDA_ERROR_OUT_OF_MEMORY"
            : code == NOT_INITIALIZED ? "CUDA_ERROR_NOT_INITIALIZED"
            : code == NO_DEVICE       ? "CUDA_ERROR_NO_DEVICE"
            : code == SYSTEM          ? "CUDA_ERROR_OPERATING_SYSTEM"
            : code == ILLEGAL_STATE   ? "CUDA_ERROR_ILLEGAL_STATE"
            : code == NOT_READY       ? "CUDA_ERROR_NOT_READY"
            : code == NOT_SUPPORTED   ? "CUDA_ERROR_NOT_SUPPORTED"
            : code == UNKNOWN         ? "CUDA_ERROR_UNKNOWN"
                                      : NULL;
    return *text ? SUCCESS : INVALID;
}

EXPORT int cuGetErrorString(int code, const char **text)
{
    *text = code == NOT_SUPPORTED ? "operation not supported"
            : code == NO_MEMORY   ? "out of memory"
            : code == NOT_INITIALIZED ? "initialization error"
            : code == SYSTEM ? "OS call failed or operation not supported on this OS"
                             : "an error of the fake driver";
    return SUCCESS;
}

#ifndef OLD_DRIVER
EXPORT int cuCheckpointProcessGetState(int pid, int *found)
{
    struct request request = {.call = STATE};
    return call(pid, &request, found);
}

EXPORT int cuCheckpointProcessLock(int pid, unsigned *arguments)
{
    struct request request = {.call = LOCK, .timeout_ms = arguments ? arguments[0] : 0};
    return call(pid, &request, NULL);
}

EXPORT int cuCheckpointProcessCheckpoint(int pid, void *arguments)
{
    struct request request = {.call = CHECKPOINT};
    (void)arguments;
    return call(pid, &request, NULL);
}

EXPORT int cuCheckpointProcessRestore(int pid, void *arguments)
{
    struct {
        unsigned char (*pairs)[32];
        unsigned count;
    } *asked = arguments;
    struct request request = {.call = RESTORE};
    if (asked && asked->count > 8)
        return INVALID;
    for (unsigned i = 0; asked && i < asked->count; i++) {
        memcpy(request.old[i], asked->pairs[i], 16);
        memcpy(request.new[i], asked->pairs[i] + 16, 16);
        request.pairs++;
    }
    return call(pid, &request, NULL);
}

EXPORT int cuCheckpointProcessUnlock(int pid, void *arguments)
{
    struct request request = {.call = UNLOCK};
    (void)arguments;
    return call(pid, &request, NULL);
}
#endif
