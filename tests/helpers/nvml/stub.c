/* A stand-in for libnvidia-ml.so.1: what it tells is set by the environment variable NVML_STUB. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long long u64;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;
typedef struct { u64 total, free, used; } memory_t;
typedef struct { unsigned pid; u64 used; unsigned gpu_instance, compute_instance; } process_t;

static int is(const char *name) {
    const char *scenario = getenv("NVML_STUB");
    return scenario && strcmp(scenario, name) == 0;
}
static long index_of(void *handle) { return (long) handle - 1; }
static u64 gib(u64 n) { return n << 30; }

int nvmlInitWithFlags(unsigned flags) {
    (void) flags;
    if (is("mismatch")) return 18; /* NVML_ERROR_LIB_RM_VERSION_MISMATCH */
    if (is("hang")) for (;;) sleep(60);
    return 0;
}
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "Not Supported"; }
int nvmlSystemGetDriverVersion(char *text, unsigned length) { snprintf(text, length, "570.86"); return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = is("mixed") ? 2 : is("mig") ? 1 : 8; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *) (long) (index + 1); return 0; }
int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    long index = index_of(handle);
    if (index >= 100) snprintf(text, length, "MIG-%ld", index - 100);
    else snprintf(text, length, "GPU-%ld", index);
    return 0;
}
int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
    snprintf(text, length, is("mixed") && index_of(handle) ? "NVIDIA A100" : "NVIDIA RTX 3090");
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
    long index = index_of(handle);
    memory->total = index >= 100 ? gib(10) : is("mixed") && index ? gib(80) : gib(24);
    memory->used = is("others") ? gib(5) : 0;
    memory->free = memory->total - memory->used;
    return 0;
}
int nvmlDeviceGetPciInfo_v3(void *handle, pci_t *pci) {
    if (index_of(handle) >= 100) return 3;
    memset(pci, 0, sizeof *pci);
    /* The bus runs against NVML's order, so that whoever trusts an index is found out. */
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02lX:00.0", 16 - index_of(handle));
    return 0;
}
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) { (void) handle; *major = 8; *minor = 6; return 0; }
int nvmlDeviceGetPowerUsage(void *handle, unsigned *milliwatts) { (void) handle; *milliwatts = 31000; return 0; }
int nvmlDeviceGetCurrPcieLinkGeneration(void *handle, unsigned *value) { (void) handle; *value = 1; return 0; }
int nvmlDeviceGetCurrPcieLinkWidth(void *handle, unsigned *value) { (void) handle; *value = 8; return 0; }
int nvmlDeviceGetMaxPcieLinkGeneration(void *handle, unsigned *value) { (void) handle; *value = 4; return 0; }
int nvmlDeviceGetMaxPcieLinkWidth(void *handle, unsigned *value) { (void) handle; *value = 16; return 0; }
int nvmlDeviceGetTemperature(void *handle, unsigned sensor, unsigned *value) {
    static unsigned calls; /* eight cards a round: one degree more each round */
    (void) handle; (void) sensor;
    if (is("stall") && calls >= 24) for (;;) sleep(60);
    *value = 41 + (is("warming") ? calls++ / 8 : is("stall") ? 0 * calls++ : 0);
    return 0;
}
int nvmlDeviceGetCurrentClocksEventReasons(void *handle, u64 *reasons) { *reasons = is("warming") && index_of(handle) == 2 ? 0x40 : 0; return 0; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *processes) {
    (void) handle;
    if (!is("others")) { *count = 0; return 0; }
    if (!processes) { *count = 1; return 7; }
    *count = 1;
    processes[0].pid = 4242;
    processes[0].used = gib(3);
    return 0;
}
int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    (void) handle;
    if (!is("mig")) return 3;
    *current = *pending = 1;
    return 0;
}
int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) { (void) handle; *count = 2; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned index, void **part) { (void) handle; *part = (void *) (long) (101 + index); return 0; }
