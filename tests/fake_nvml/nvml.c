/* A libnvidia-ml.so.1 for tests on machines without a GPU: what the product asks of NVML, with faults that a file switches.
 *
 * The file `nvml.conf` lies beside the library and is read at each call, lines `name=value`; `build.py` says what they mean.
 * Structures and codes: NVIDIA's NVML API reference, version 13.
 */
#define _GNU_SOURCE
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOST_GPUS 4
#define MOST_LEGS 16
#define TEXT 256

typedef int Code;
typedef unsigned long long Bytes;
typedef struct { unsigned pid; Bytes used; unsigned instance, compute; } Process;
typedef struct { Bytes total, free, used; } Memory;
/* A handle is a place in this array. */
static char gpus[MOST_GPUS];
static const struct { const char *word; Code code; const char *meaning; } answers[] = {
    {"ok", 0, "Success"}, {"bad-argument", 2, "Invalid Argument"}, {"not-supported", 3, "Not Supported"},
    {"no-permission", 4, "Insufficient Permissions"}, {"too-small", 7, "Insufficient Size"},
    {"not-loaded", 9, "Driver Not Loaded"}, {"not-there", 13, "Function Not Found"}, {"lost", 15, "GPU is lost"},
    {"mismatch", 18, "Driver/library version mismatch"},
};
#define ANSWERS (sizeof answers / sizeof *answers)

static const char *setting(const char *name, const char *otherwise, char *into) {
    Dl_info self;
    char path[4096], line[2 * TEXT];
    snprintf(into, TEXT, "%s", otherwise);
    if (!dladdr(gpus, &self) || !self.dli_fname) return into;
    const char *slash = strrchr(self.dli_fname, '/');
    snprintf(path, sizeof path, "%.*s/nvml.conf", slash ? (int)(slash - self.dli_fname) : 1, slash ? self.dli_fname : ".");
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        char *equals = strchr(line, '=');
        line[strcspn(line, "\n")] = 0;
        if (equals && (size_t)(equals - line) == strlen(name) && !strncmp(line, name, strlen(name)))
            snprintf(into, TEXT, "%s", equals + 1);
    }
    if (file) fclose(file);
    return into;
}
static Bytes number(const char *name, Bytes otherwise) {
    char text[TEXT];
    return *setting(name, "", text) ? strtoull(text, NULL, 10) : otherwise;
}
static Code answer(const char *name) {
    char text[TEXT];
    setting(name, "ok", text);
    for (size_t i = 0; i < ANSWERS; i++)
        if (!strcmp(text, answers[i].word)) return answers[i].code;
    return 0;
}
static const char *of_gpu(const char *name, const char *gpu, const char *otherwise, char *into) {
    char numbered[TEXT];
    snprintf(numbered, sizeof numbered, "%s%d", name, (int)(gpu - gpus));
    return setting(numbered, otherwise, into);
}

/* The parent of a process, 0 if it is gone; `is_leg`: whether its command line is one of a leg or its launcher. */
static int parent_of(int pid, int *is_leg) {
    char path[64], text[8192] = "", state = 0;
    int parent = 0;
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    FILE *file = fopen(path, "r");
    size_t size = file ? fread(text, 1, sizeof text - 2, file) : 0;
    if (file) fclose(file);
    char *leg = memmem(text, size, "\0launcher\0", 10);
    *is_leg = leg && memmem(leg + 9, (size_t)(text + size - leg - 9), "\0--control\0", 11);
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    file = fopen(path, "r");
    size = file ? fread(text, 1, sizeof text - 1, file) : 0;
    if (file) fclose(file);
    text[size] = 0;
    char *name_end = strrchr(text, ')');
    if (!name_end || sscanf(name_end + 2, "%c %d", &state, &parent) != 2 || state == 'Z') return 0;
    return parent;
}
/* A leg is forked by the leader of its session, that by a launcher, and that by what the agent starts: one command line for all.
   The agent calls this library, and so does a child that samples. */
static int legs(int *found) {
    int many = 0, leg;
    DIR *every = opendir("/proc");
    for (struct dirent *entry; every && many < MOST_LEGS && (entry = readdir(every));) {
        int pid = isdigit((unsigned char)*entry->d_name) ? atoi(entry->d_name) : 0;
        int above = pid;
        for (int up = 0; up < 4 && above; up++) {
            above = parent_of(above, &leg);
            if (!leg) above = 0;
        }
        if (above && (above == getpid() || above == getppid())) found[many++] = pid;
    }
    if (every) closedir(every);
    return many;
}

Code nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    usleep((useconds_t)(1000 * number("init_ms", 0)));
    return answer("init");
}
Code nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(Code code) {
    for (size_t i = 0; i < ANSWERS; i++)
        if (answers[i].code == code) return answers[i].meaning;
    return "Unknown Error";
}
Code nvmlSystemGetDriverVersion(char *out, unsigned size) {
    char text[TEXT];
    snprintf(out, size, "%s", setting("driver_version", "580.95.05", text));
    return answer("driver");
}
Code nvmlDeviceGetCount_v2(unsigned *out) { *out = (unsigned)number("count", 1); return answer("counting"); }
Code nvmlDeviceGetHandleByIndex_v2(unsigned index, char **out) {
    char text[TEXT], name[TEXT];
    if (index >= number("count", 1) || index >= MOST_GPUS) return 2;
    *out = gpus + index;
    snprintf(name, sizeof name, "handle%u", index);
    return *setting(name, "", text) ? answer(name) : 0;
}
Code nvmlDeviceGetName(char *gpu, char *out, unsigned size) {
    char text[TEXT];
    snprintf(out, size, "%s", of_gpu("name", gpu, "NVIDIA H100 80GB HBM3", text));
    return answer("naming");
}
Code nvmlDeviceGetUUID(char *gpu, char *out, unsigned size) {
    char text[TEXT], own[TEXT];
    snprintf(own, sizeof own, "GPU-00000000-0000-4000-8000-00000000000%d", (int)(gpu - gpus));
    snprintf(out, size, "%s", of_gpu("uuid", gpu, own, text));
    return answer("uuid");
}
/* Memory in use: what the GPU always holds, what each leg on it has, and for good what `drift` says once a leg was seen. */
Code nvmlDeviceGetMemoryInfo(char *gpu, Memory *out) {
    static int most;
    static time_t seen;
    int found[MOST_LEGS], here = gpu - gpus == (long)number("legs_on", 0) ? legs(found) : 0;
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    if (here >= most && here) most = here, seen = now.tv_sec;
    Bytes counted = here < most && gpu - gpus == (long)number("legs_on", 0) && now.tv_sec - seen < (time_t)number("linger_s", 0) ? most : here;
    out->total = 85ULL << 30;
    out->used = (600ULL << 20) + counted * number("leg_bytes", 1ULL << 30) + (most ? number("drift", 0) : 0) + number("used", 0);
    out->free = out->total - out->used;
    return answer("memory");
}
Code nvmlDeviceGetComputeRunningProcesses_v3(char *gpu, unsigned *count, Process *out) {
    char text[TEXT];
    int found[MOST_LEGS], many = 0;
    Code code = answer("processes");
    if (code) return code;
    setting("listed", "own", text);
    if (strcmp(text, "none") && gpu - gpus == (long)number("legs_on", 0)) many = legs(found);
    if (*count < (unsigned)many || (many && !out)) { *count = (unsigned)many; return 7; }
    for (int i = 0; i < many; i++)
        out[i] = (Process){(unsigned)found[i] + (strcmp(text, "host") ? 0 : 3000000), number("leg_bytes", 1ULL << 30), ~0u, ~0u};
    *count = (unsigned)many;
    return 0;
}
Code nvmlDeviceGetClockInfo(char *gpu, int kind, unsigned *out) { (void)gpu; *out = kind == 1 ? 1980 : 2619; return answer("clock"); }
Code nvmlDeviceGetTemperature(char *gpu, int kind, unsigned *out) { (void)gpu; (void)kind; *out = 51; return answer("temperature"); }
Code nvmlDeviceGetPowerUsage(char *gpu, unsigned *out) { (void)gpu; *out = 350000; return answer("power"); }
Code nvmlDeviceGetTotalEnergyConsumption(char *gpu, Bytes *out) { (void)gpu; *out = 1000000; return answer("energy"); }
Code nvmlDeviceGetCurrentClocksEventReasons(char *gpu, Bytes *out) { (void)gpu; *out = 4; return answer("event_reasons"); }
Code nvmlDeviceGetCurrentClocksThrottleReasons(char *gpu, Bytes *out) { (void)gpu; *out = 4; return answer("throttle_reasons"); }
