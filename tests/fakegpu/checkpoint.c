/* NVIDIA's program cuda-checkpoint, over the fake driver that is built into it:
 *
 *     cuda-checkpoint --get-state --pid PID
 *     cuda-checkpoint --action lock|checkpoint|restore|unlock --pid PID [--timeout MS]
 *                     [--device-map OLD=NEW,…]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuInit(unsigned);
int cuGetErrorString(int, const char **);
int cuCheckpointProcessGetState(int, int *);
int cuCheckpointProcessLock(int, unsigned *);
int cuCheckpointProcessCheckpoint(int, void *);
int cuCheckpointProcessRestore(int, void *);
int cuCheckpointProcessUnlock(int, void *);

static void uuid(const char *text, unsigned char *bytes)
{
    unsigned value;
    text += strlen("GPU-");
    for (int i = 0; i < 16; i++, text += 2) {
        text += *text == '-';
        if (sscanf(text, "%2x", &value) == 1)
            bytes[i] = value;
    }
}

int main(int count, char **words)
{
    static const char *STATES[] = {"running", "locked", "checkpointed", "failed"};
    const char *action = "", *map = "", *said = "";
    unsigned timeout[16] = {0};
    unsigned char pairs[8][32] = {{0}};
    struct {
        unsigned char (*pairs)[32];
        unsigned count, reserved[13];
    } restore = {pairs, 0, {0}};
    int pid = 0, state = -1, result = 1;
    for (int i = 1; i < count; i++) {
        const char *next = i + 1 < count ? words[i + 1] : "";
        if (!strcmp(words[i], "--help"))
            return 0;
        if (!strcmp(words[i], "--get-state"))
            action = "state";
        else if (!strcmp(words[i], "--action"))
            action = next;
        else if (!strcmp(words[i], "--pid"))
            pid = atoi(next);
        else if (!strcmp(words[i], "--timeout"))
            timeout[0] = atoi(next);
        else if (!strcmp(words[i], "--device-map"))
            map = next;
    }
    for (const char *pair = map; strlen(pair) >= 81 && restore.count < 8; pair += 81) {
        uuid(pair, pairs[restore.count]);
        uuid(pair + 41, pairs[restore.count++] + 16);
        if (!pair[81])
            break;
        pair++;
    }
    cuInit(0);
    if (!strcmp(action, "state"))
        result = cuCheckpointProcessGetState(pid, &state);
    else if (!strcmp(action, "lock"))
        result = cuCheckpointProcessLock(pid, timeout);
    else if (!strcmp(action, "checkpoint"))
        result = cuCheckpointProcessCheckpoint(pid, NULL);
    else if (!strcmp(action, "restore"))
        result = cuCheckpointProcessRestore(pid, restore.count ? &restore : NULL);
    else if (!strcmp(action, "unlock"))
        result = cuCheckpointProcessUnlock(pid, NULL);
    if (!result && state >= 0)
        puts(STATES[state]);
    if (!result)
        return 0;
    cuGetErrorString(result, &said);
    fprintf(stderr, "Error in %s of process ID %d: \"%s\"\n", action, pid, said);
    return 1;
}
