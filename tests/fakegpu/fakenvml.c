/* The node's libnvidia-ml.so.1 for the fake GPUs (fakecuda.c): the calls that Podthaw makes.
 *
 *   /run/fakegpu/gpus     a GPU a line: UUID N memory-MiB free-MiB model
 *   /run/fakegpu/nvml     driver version, compute capability, ECC and MIG mode:
 *                         "580.159.04 9 0 1 0" when absent
 * What a process uses of a GPU are its mappings of files below the GPU's folder. ABI: nvml.h.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, TOO_SMALL = 7, NO_DRIVER = 9 };

struct gpu {
    char uuid[48], model[64];
    int number;
    unsigned long memory, free;
};

static FILE *home(const char *name)
{
    char path[512];
    const char *moved = getenv("FAKEGPU_HOME");
    snprintf(path, sizeof path, "%s/%s", moved ? moved : "/run/fakegpu", name);
    return fopen(path, "re");
}

static struct gpu gpus[16];
static int count;
static char version[32];
static int major, minor, ecc, mig;

EXPORT int nvmlInit_v2(void)
{
    FILE *file = home("gpus");
    count = 0;
    strcpy(version, "580.159.04");
    major = 9, minor = 0, ecc = 1, mig = 0;
    if (!file)
        return NO_DRIVER;
    while (count < 16 && fscanf(file, "%47s %d %lu %lu %63[^\n]", gpus[count].uuid,
                                &gpus[count].number, &gpus[count].memory, &gpus[count].free,
                                gpus[count].model) == 5)
        count++;
    fclose(file);
    file = home("nvml");
    if (file) {
        if (fscanf(file, "%31s %d %d %d %d", version, &major, &minor, &ecc, &mig) != 5)
            ecc = mig = 0;
        fclose(file);
    }
    return SUCCESS;
}

EXPORT int nvmlInitWithFlags(unsigned flags) { return (void)flags, nvmlInit_v2(); }
EXPORT int nvmlShutdown(void) { return SUCCESS; }
EXPORT const char *nvmlErrorString(int code) { return code ? "an error" : "success"; }

EXPORT int nvmlSystemGetDriverVersion(char *text, unsigned length)
{
    snprintf(text, length, "%s", version);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCount_v2(unsigned *found)
{
    *found = count;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **device)
{
    *device = &gpus[index];
    return index < (unsigned)count ? SUCCESS : INVALID;
}

EXPORT int nvmlDeviceGetUUID(struct gpu *gpu, char *text, unsigned length)
{
    snprintf(text, length, "%s", gpu->uuid);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetName(struct gpu *gpu, char *text, unsigned length)
{
    snprintf(text, length, "%s", gpu->model);
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMinorNumber(struct gpu *gpu, unsigned *number)
{
    *number = gpu->number;
    return SUCCESS;
}

EXPORT int nvmlDeviceGetMemoryInfo(struct gpu *gpu, unsigned long long *numbers)
{
    numbers[0] = (unsigned long long)gpu->memory << 20; /* total, free, used */
    numbers[1] = (unsigned long long)gpu->free << 20;
    numbers[2] = numbers[0] - numbers[1];
    return SUCCESS;
}

EXPORT int nvmlDeviceGetCudaComputeCapability(struct gpu *gpu, int *first, int *second)
{
    (void)gpu;
    *first = major;
    *second = minor;
    return SUCCESS;
}

static unsigned long long used_by(const char *process, const struct gpu *gpu)
{
    char path[300], line[512];
    unsigned long long sum = 0, begin, end;
    snprintf(path, sizeof path, "/proc/%s/maps", process);
    FILE *file = fopen(path, "re");
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, gpu->uuid) && sscanf(line, "%llx-%llx", &begin, &end) == 2)
            sum += end - begin;
    if (file)
        fclose(file);
    return sum;
}

struct process {
    unsigned pid;
    unsigned long long used;
    unsigned instances[2];
};

EXPORT int nvmlDeviceGetComputeRunningProcesses_v3(struct gpu *gpu, unsigned *room,
                                                   struct process *found)
{
    unsigned seen = 0, most = found ? *room : 0;
    DIR *folder = opendir("/proc");
    for (struct dirent *entry; folder && (entry = readdir(folder));) {
        unsigned long long used = atoi(entry->d_name) ? used_by(entry->d_name, gpu) : 0;
        if (used && seen++ < most) {
            found[seen - 1].pid = atoi(entry->d_name);
            found[seen - 1].used = used;
        }
    }
    if (folder)
        closedir(folder);
    *room = seen;
    return seen > most ? TOO_SMALL : SUCCESS;
}

EXPORT int nvmlDeviceGetEccMode(struct gpu *gpu, unsigned *current, unsigned *pending)
{
    (void)gpu;
    *current = *pending = ecc;
    return ecc < 0 ? NOT_SUPPORTED : SUCCESS;
}

EXPORT int nvmlDeviceGetMigMode(struct gpu *gpu, unsigned *current, unsigned *pending)
{
    (void)gpu;
    *current = *pending = mig;
    return mig < 0 ? NOT_SUPPORTED : SUCCESS;
}
