// libcuda.so.1 for tests: README.md says what it is and what can be asked of it.

#include "../../kernels/sample.cu"
#include "../../kernels/host/engine.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default")))

namespace {

using u8 = unsigned char;
using u32 = uint32_t;
using u64 = uint64_t;

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_FAILED = 719,
    INVALID_CLUSTER_SIZE = 912,
};

const char* variable(const char* name, const char* otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? value : otherwise;
}

u64 number(const char* name, u64 otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? std::strtoull(value, nullptr, 10) : otherwise;
}

// What the program under test is made to forget, to prove that forgetting shows.
bool forgets(const char* what) { return std::strcmp(variable("FAKE_CUDA_FORGET", ""), what) == 0; }

int chip() { return static_cast<int>(number("FAKE_CUDA_CHIP", 90)); }

// The groups of multiprocessors (GPCs), each with how many it has: "4" or "2,2". A cluster is within one.
std::vector<int> groups() {
    std::vector<int> found;
    for (const char* text = variable("FAKE_CUDA_GROUPS", "4"); *text; text++) {
        char* end = nullptr;
        found.push_back(static_cast<int>(std::strtol(text, &end, 10)));
        text = end;
        if (*text != ',') break;
    }
    return found;
}

int multiprocessors() {
    int sum = 0;
    for (const int group : groups()) sum += group;
    return sum;
}

// Shared memory: of a block that has asked for the most, of a multiprocessor, and what it keeps of each block's.
int block_shared_bytes() { return (chip() >= 90 ? 227 : 64) << 10; }
int multiprocessor_shared_bytes() { return (chip() >= 90 ? 228 : 64) << 10; }
int reserved_shared_bytes() { return chip() >= 80 ? 1 << 10 : 0; }
constexpr int MULTIPROCESSOR_BLOCKS = 4;

void log(const char* format, ...) {
    const char* path = std::getenv("FAKE_CUDA_LOG");
    if (!path || !*path) return;
    FILE* file = std::fopen(path, "a");
    if (!file) return;
    va_list arguments;
    va_start(arguments, format);
    std::vfprintf(file, format, arguments);
    va_end(arguments);
    std::fputc('\n', file);
    std::fclose(file);
}

// What is wrong with the program under test, not with its input, ends it.
[[noreturn]] void misused(const std::string& what) {
    std::fprintf(stderr, "FAKE CUDA: %s\n", what.c_str());
    log("misused %s", what.c_str());
    std::abort();
}

// Positions that are known to have been reached, in each stream.
using Clock = std::map<u32, u64>;

void join(Clock& clock, const Clock& other) {
    for (const auto& [stream, position] : other) {
        u64& own = clock[stream];
        if (position > own) own = position;
    }
}

u64 reached(const Clock& clock, u32 stream) {
    const auto found = clock.find(stream);
    return found == clock.end() ? 0 : found->second;
}

struct Access {
    u64 start, end;
    bool write;
};

struct Event {
    bool timed = false;
    bool recorded = false;
    u32 stream = 0;
    u64 position = 0;
    Clock clock;
    // Of whoever records it too: an event may be destroyed before it is reached.
    std::shared_ptr<double> at_ms = std::make_shared<double>(0);
};

// Something in a stream.
struct Operation {
    std::string name;
    u32 stream;
    u64 position;
    Clock clock;
    std::vector<Access> accesses;
    std::function<Result()> run;
    // Where it has to wait for another stream.
    u32 wait_stream = 0;
    u64 wait_position = 0;
};

struct Stream {
    u32 index = 0;
    u64 enqueued = 0;
    u64 done = 0;
    Clock clock;
    std::deque<std::shared_ptr<Operation>> pending;
};

struct Allocation {
    u64 start;
    u64 bytes;
    u8* mapping;
    u64 mapped;
};

struct Function {
    std::string name;
    int shared_bytes = 48 << 10;
    int carveout = -1;
};

struct Module {
    std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Context {
    int device = 0;
    int retained = 0;
    Result sticky = SUCCESS;
    bool hung = false;
    u64 samples = 0;
    u64 used = 0;
    u32 streams_made = 0;
    Clock host;
    std::map<u64, Allocation> memory;
    std::map<void*, u64> pinned;
    std::set<Stream*> streams;
    std::set<Event*> events;
    std::set<Module*> modules;
    std::vector<std::shared_ptr<Operation>> recent;
};

std::mutex mutex;
bool initialized = false;
std::map<int, Context> contexts;
thread_local Context* current = nullptr;

int device_count() { return static_cast<int>(number("FAKE_CUDA_DEVICES", 1)); }

// Processes can number the same devices differently; this is which one it really is.
int physical(int device) {
    return device_count() == 0 ? device : (device + static_cast<int>(number("FAKE_CUDA_FIRST", 0))) % device_count();
}

// Memory that can be mapped, here and in other processes: a memfd whose name says on which device it is.
struct Memory {
    int descriptor;
    u64 bytes;
    int device;
    bool made_here;
    Memory(int d, u64 b, int on, bool made) : descriptor(d), bytes(b), device(on), made_here(made) {}
    Memory(const Memory&) = delete;
    ~Memory() {
        close(descriptor);
        if (made_here) contexts[device].used -= bytes;
    }
};

struct Mapping {
    u64 bytes = 0;
    std::shared_ptr<Memory> memory;  // Nothing is mapped where there is none.
};

u64 handles_made = 0;
std::map<u64, std::shared_ptr<Memory>> handles;
std::map<u64, Mapping> reservations;

constexpr u64 GRANULARITY = 2 << 20;
constexpr const char* MEMORY_NAME = "fake-cuda-device-";

// What can be mapped and has not been given back.
bool has_memory_left(int device) {
    for (const auto& [_, memory] : handles) {
        if (memory->device == device) return true;
    }
    for (const auto& [_, mapping] : reservations) {
        if (!mapping.memory || mapping.memory->device == device) return true;
    }
    return false;
}

double now_ms() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

// Lets the device at its memory while an operation runs.
struct Unlocked {
    Context* context;
    explicit Unlocked(Context* c) : context(c) { protect(PROT_READ | PROT_WRITE); }
    ~Unlocked() { protect(PROT_NONE); }
    void protect(int how) {
        for (auto& [start, piece] : context->memory) mprotect(piece.mapping, piece.mapped, how);
    }
};

const Allocation* find(const Context* context, u64 address) {
    auto next = context->memory.upper_bound(address);
    if (next == context->memory.begin()) return nullptr;
    const Allocation& piece = (--next)->second;
    return address < piece.start + piece.bytes ? &piece : nullptr;
}

// The device's memory at this address, or its end.
Access device_access(const Context* context, u64 start, u64 bytes, bool write, const char* what) {
    const Allocation* piece = find(context, start);
    if (!piece || start + bytes > piece->start + piece->bytes) {
        misused(std::string(what) + " beyond the device's memory");
    }
    return {start, start + bytes, write};
}

Access whole(const Context* context, u64 address, bool write) {
    const Allocation* piece = find(context, address);
    if (!piece) misused("a launch with an address that is not the device's");
    return {piece->start, piece->start + piece->bytes, write};
}

Access host_access(const Context* context, const void* start, u64 bytes, bool write) {
    const u64 address = reinterpret_cast<u64>(start);
    for (const auto& [from, length] : context->pinned) {
        const u64 first = reinterpret_cast<u64>(from);
        if (address >= first && address + bytes <= first + length) return {address, address + bytes, write};
    }
    misused("an asynchronous copy with memory that is not pinned");
}

void must_be_ordered(Context* context, const Operation& operation) {
    auto& recent = context->recent;
    for (size_t i = 0; i < recent.size();) {
        const Operation& before = *recent[i];
        if (before.position <= reached(context->host, before.stream)) {
            recent[i] = recent.back();
            recent.pop_back();
            continue;
        }
        i++;
        if (before.position <= reached(operation.clock, before.stream)) continue;
        for (const Access& a : before.accesses) {
            for (const Access& b : operation.accesses) {
                if ((a.write || b.write) && a.start < b.end && b.start < a.end) {
                    misused("nothing orders " + before.name + " and " + operation.name + ", which share memory");
                }
            }
        }
    }
}

void enqueue(Context* context, Stream* stream, std::string name, std::vector<Access> accesses,
             std::function<Result()> run) {
    auto operation = std::make_shared<Operation>();
    join(stream->clock, context->host);
    operation->name = std::move(name);
    operation->stream = stream->index;
    operation->position = stream->clock[stream->index] = ++stream->enqueued;
    operation->clock = stream->clock;
    operation->accesses = std::move(accesses);
    operation->run = std::move(run);
    must_be_ordered(context, *operation);
    if (!operation->accesses.empty()) context->recent.push_back(operation);
    stream->pending.push_back(std::move(operation));
}

Stream* stream_of(Context* context, u32 index) {
    for (Stream* stream : context->streams) {
        if (stream->index == index) return stream;
    }
    return nullptr;
}

// Runs a stream up to a position, and of the others what it waits for. False where something hangs.
bool run_until(Context* context, Stream* stream, u64 position) {
    while (stream && stream->done < position && context->sticky == SUCCESS) {
        Operation& operation = *stream->pending.front();
        if (operation.wait_position > 0) {
            Stream* other = stream_of(context, operation.wait_stream);
            if (other && !run_until(context, other, operation.wait_position)) return false;
        }
        if (context->sticky != SUCCESS) return true;
        if (operation.run) {
            Unlocked unlocked(context);
            const Result result = operation.run();
            if (result == NOT_READY) {
                context->hung = true;
                return false;
            }
            if (result != SUCCESS) context->sticky = result;
        }
        stream->done++;
        stream->pending.pop_front();
    }
    return true;
}

// What frees or destroys waits for the device, as long as it takes.
void wait_for_all(Context* context, std::unique_lock<std::mutex>& lock, const char* what) {
    for (Stream* stream : context->streams) {
        if (run_until(context, stream, stream->enqueued)) continue;
        log("blocked %s", what);
        lock.unlock();
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

#define ENTER()                                       \
    std::unique_lock<std::mutex> lock(mutex);         \
    Context* context = current;                       \
    if (!initialized || !context) return INVALID_CONTEXT; \
    if (context->sticky != SUCCESS) return context->sticky;

// What concerns mapped memory belongs to no context.
#define ENTER_DRIVER()                        \
    std::unique_lock<std::mutex> lock(mutex); \
    if (!initialized) return NOT_INITIALIZED;

bool has_fault(const Context* context, const char* kind) {
    const std::string fault = variable("FAKE_CUDA_FAULT", "");
    if (number("FAKE_CUDA_FAULT_DEVICE", 0) != static_cast<u64>(context->device)) return false;
    const size_t colon = fault.find(':');
    if (colon == std::string::npos || fault.substr(0, colon) != kind) return false;
    return context->samples >= std::strtoull(fault.c_str() + colon + 1, nullptr, 10);
}

struct LaunchConfig {
    u32 grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
    Stream* stream;
    const struct LaunchAttribute* attributes;
    u32 attribute_count;
};

struct LaunchAttribute {
    int id;
    char pad[4];
    u32 cluster[16];
};
static_assert(sizeof(LaunchAttribute) == 72, "as in cuda.h");
static_assert(sizeof(LaunchConfig) == 56, "as in cuda.h");
constexpr int CLUSTER_DIMENSION = 4;

// As in cuda.h.
struct Location {
    int type, id;
};
struct AllocationProperties {
    int type;
    u32 handle_types;
    Location location;
    void* windows;
    u8 flags[8];
};
struct AccessDescription {
    Location location;
    int flags;
};
static_assert(sizeof(AllocationProperties) == 32 && sizeof(AccessDescription) == 12, "as in cuda.h");
constexpr int PINNED = 1, ON_DEVICE = 1, READ_AND_WRITE = 3;
constexpr u32 POSIX_DESCRIPTOR = 1;

bool is_device(const Location& location) {
    return location.type == ON_DEVICE && location.id >= 0 && location.id < device_count();
}

bool is_shareable(const AllocationProperties* wanted) {
    return wanted->type == PINNED && wanted->handle_types == POSIX_DESCRIPTOR && is_device(wanted->location);
}

// Whatever the host does not know to be over may still be at work.
void must_be_over(u64 start, u64 bytes, const char* what) {
    for (const auto& [_, context] : contexts) {
        for (const auto& operation : context.recent) {
            if (operation->position <= reached(context.host, operation->stream)) continue;
            for (const Access& a : operation->accesses) {
                if (a.start < start + bytes && start < a.end) misused(std::string(what) + " while " + operation->name + " may use it");
            }
        }
    }
}

Result run_sample(Context* context, const LaunchConfig& config, u32 cluster, bool clusters, const logitd::Batch& batch,
                  u64 launch_number, const std::string& fault) {
    if (fault == "hang") return NOT_READY;
    if (fault == "sticky") return ILLEGAL_ADDRESS;
    if (fault == "mute") return SUCCESS;
    const simt::Launch launch = {config.grid_x, config.block_x, cluster, config.shared_bytes, 64,
                                 launch_number,  simt::Order::Shuffled};
    const std::string error = simt::run(launch, [&] {
        if (clusters) {
            logitd::logitd_sample_cluster(batch);
        } else {
            logitd::logitd_sample_grid(batch);
        }
    });
    if (!error.empty()) {
        std::fprintf(stderr, "FAKE CUDA: %s\n", error.c_str());
        log("kernel-error %s", error.c_str());
        return LAUNCH_FAILED;
    }
    if (fault == "flip") reinterpret_cast<logitd::RowDraw*>(batch.draws)[0].logit ^= 0x10000;
    return SUCCESS;
}

// A kernel that runs before or after the sampling one: it does not count as a launch of rows, and has no faults of its
// own.
template <class Kernel> Result run_beside(const LaunchConfig& config, u64 launch_number, Kernel kernel) {
    const simt::Launch launch = {config.grid_x, config.block_x, 1, config.shared_bytes, 64, launch_number, simt::Order::Shuffled};
    const std::string error = simt::run(launch, kernel);
    if (error.empty()) return SUCCESS;
    std::fprintf(stderr, "FAKE CUDA: %s\n", error.c_str());
    log("kernel-error %s", error.c_str());
    return LAUNCH_FAILED;
}

std::string fault_of(const Context* context) {
    for (const char* kind : {"hang", "sticky", "mute", "flip"}) {
        if (has_fault(context, kind)) return kind;
    }
    return "";
}

// Blocks with so much dynamic shared memory that run on a multiprocessor at once.
int active_blocks(const Function* function, size_t shared_bytes) {
    if (shared_bytes > static_cast<size_t>(function->shared_bytes)) return 0;
    const int taken = static_cast<int>(shared_bytes) + reserved_shared_bytes();
    const int fit = taken == 0 ? MULTIPROCESSOR_BLOCKS : multiprocessor_shared_bytes() / taken;
    return fit < MULTIPROCESSOR_BLOCKS ? fit : MULTIPROCESSOR_BLOCKS;
}

// The blocks of a cluster; 0: there are no such clusters.
u32 cluster_of(const LaunchConfig& config) {
    u32 cluster = 1;
    for (u32 i = 0; i < config.attribute_count; i++) {
        if (config.attributes[i].id != CLUSTER_DIMENSION || chip() < 90) return 0;
        cluster = config.attributes[i].cluster[0];
    }
    return cluster > 8 || (cluster > 0 && config.grid_x % cluster != 0) ? 0 : cluster;
}

struct Reading {
    u64 from, count, sink;
};

// With fewer threads than were launched, each of which reads more.
Result run_read(const Reading& reading) {
    const simt::Launch launch = {2, 64, 1, 0, 1, 0, simt::Order::First};
    const std::string error = simt::run(launch, [&] {
        logitd::logitd_read(reinterpret_cast<const uint4*>(reading.from), reading.count,
                            reinterpret_cast<unsigned*>(reading.sink));
    });
    return error.empty() ? SUCCESS : LAUNCH_FAILED;
}

Result run_probe(logitd::Probe* probe) {
    const simt::Launch launch = {1, 1, 1, 0, 1, 0, simt::Order::First};
    simt::run(launch, [&] { logitd::logitd_probe(probe); });
    if (number("FAKE_CUDA_CONTRACT", 0)) probe->sum = probe->fused;
    return SUCCESS;
}

std::string kind_of(const u8* image) {
    const u8 fatbin[] = {0x50, 0xed, 0x55, 0xba}, elf[] = {0x7f, 'E', 'L', 'F'};
    if (std::memcmp(image, fatbin, 4) == 0) return "fatbin";
    if (std::memcmp(image, elf, 4) == 0) return "cubin";
    const char* text = reinterpret_cast<const char*>(image);
    return std::strstr(text, ".version") ? "ptx" : "";
}

}  // namespace

API int cuDriverGetVersion(int* version) {
    *version = static_cast<int>(number("FAKE_CUDA_DRIVER", 13000));
    return SUCCESS;
}

API int cuInit(unsigned) {
    std::lock_guard<std::mutex> lock(mutex);
    if (number("FAKE_CUDA_DEVICES", 1) == 0) return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

API int cuGetErrorString(int code, const char** text) {
    switch (code) {
        case OUT_OF_MEMORY: *text = "out of memory"; break;
        case NO_DEVICE: *text = "no CUDA-capable device is detected"; break;
        case NO_BINARY_FOR_GPU: *text = "no kernel image is available for execution on the device"; break;
        case ILLEGAL_ADDRESS: *text = "an illegal memory access was encountered"; break;
        default: *text = "an error of the fake driver"; break;
    }
    return SUCCESS;
}

API int cuDeviceGetCount(int* count) {
    *count = static_cast<int>(number("FAKE_CUDA_DEVICES", 1));
    return SUCCESS;
}

API int cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || static_cast<u64>(ordinal) >= number("FAKE_CUDA_DEVICES", 1)) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API int cuDeviceGetName(char* name, int length, int device) {
    std::snprintf(name, static_cast<size_t>(length), "FAKE CUDA device %d (kernels on the CPU, for tests)",
                  physical(device));
    return SUCCESS;
}

API int cuDeviceGetUuid_v2(char* uuid, int device) {
    char text[17];
    std::snprintf(text, sizeof text, "FAKE-CUDA-UUID%02d", physical(device));
    std::memcpy(uuid, text, 16);
    return SUCCESS;
}

API int cuDeviceGetAttribute(int* value, int attribute, int) {
    switch (attribute) {
        case 16: *value = multiprocessors(); break;                // MULTIPROCESSOR_COUNT
        case 38: *value = 1 << 20; break;                          // L2_CACHE_SIZE
        case 75: *value = chip() / 10; break;                      // COMPUTE_CAPABILITY_MAJOR
        case 76: *value = chip() % 10; break;                      // COMPUTE_CAPABILITY_MINOR
        case 97: *value = block_shared_bytes(); break;             // MAX_SHARED_MEMORY_PER_BLOCK_OPTIN
        case 102: *value = 1; break;                               // VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED
        case 103: *value = number("FAKE_CUDA_EXPORT", 1) != 0; break;  // HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API int cuDevicePrimaryCtxRetain(Context** context, int device) {
    std::lock_guard<std::mutex> lock(mutex);
    Context& own = contexts[device];
    own.device = device;
    own.retained++;
    *context = &own;
    return SUCCESS;
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard<std::mutex> lock(mutex);
    Context& own = contexts[device];
    if (--own.retained == 0) {
        const bool left = own.memory.size() + own.pinned.size() + own.streams.size() + own.events.size() > 0 ||
                          has_memory_left(device);
        log(left ? "released with things left" : "released");
    }
    return SUCCESS;
}

API int cuCtxSetCurrent(Context* context) {
    if (context && context->sticky != SUCCESS) return context->sticky;
    current = context;
    return SUCCESS;
}

API int cuModuleLoadData(Module** module, const void* image) {
    ENTER();
    const std::string kind = kind_of(static_cast<const u8*>(image));
    if (kind.empty()) return INVALID_IMAGE;
    if (std::strstr(variable("FAKE_CUDA_REFUSE", ""), kind.c_str())) return NO_BINARY_FOR_GPU;
    log("module %s", kind.c_str());
    *module = new Module;
    for (const char* name : {"logitd_sample_cluster", "logitd_sample_grid", "logitd_adjust", "logitd_cut", "logitd_inspect",
                             "logitd_probe", "logitd_read"}) {
        (*module)->functions[name] = std::make_unique<Function>(Function{name});
    }
    context->modules.insert(*module);
    return SUCCESS;
}

API int cuModuleUnload(Module* module) {
    ENTER();
    wait_for_all(context, lock, "cuModuleUnload");
    context->modules.erase(module);
    delete module;
    return SUCCESS;
}

API int cuModuleGetFunction(Function** function, Module* module, const char* name) {
    ENTER();
    const auto found = module->functions.find(name);
    if (found == module->functions.end()) return NOT_FOUND;
    *function = found->second.get();
    return SUCCESS;
}

API int cuFuncGetAttribute(int* value, int attribute, Function*) {
    ENTER();
    switch (attribute) {
        case 1: *value = 0; break;                                                            // SHARED_SIZE_BYTES
        case 5: *value = static_cast<int>(number("FAKE_CUDA_CODE", static_cast<u64>(chip()))); break;  // PTX_VERSION
        default: return INVALID_VALUE;
    }
    return SUCCESS;
}

API int cuFuncSetAttribute(Function* function, int attribute, int value) {
    ENTER();
    switch (attribute) {
        case 8:  // MAX_DYNAMIC_SHARED_SIZE_BYTES
            if (value > block_shared_bytes()) return INVALID_VALUE;
            function->shared_bytes = value;
            return SUCCESS;
        case 9:  // PREFERRED_SHARED_MEMORY_CARVEOUT
            if (value < -1 || value > 100) return INVALID_VALUE;
            function->carveout = value;
            return SUCCESS;
        default: return INVALID_VALUE;
    }
}

API int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, Function* function, int, size_t shared_bytes) {
    ENTER();
    *blocks = active_blocks(function, shared_bytes);
    return SUCCESS;
}

API int cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, Function* function, int blocks, int) {
    ENTER();
    if (blocks < 1 || blocks > MULTIPROCESSOR_BLOCKS) return INVALID_VALUE;
    const int most = multiprocessor_shared_bytes() / blocks - reserved_shared_bytes();
    *bytes = static_cast<size_t>(most < function->shared_bytes ? most : function->shared_bytes);
    return SUCCESS;
}

API int cuOccupancyMaxActiveClusters(int* clusters, Function* function, const LaunchConfig* config) {
    ENTER();
    const u32 cluster = cluster_of(*config);
    if (cluster == 0) return INVALID_CLUSTER_SIZE;
    if (config->block_x != logitd::THREADS) misused("clusters are counted for another size of block than the kernels'");
    *clusters = 0;
    for (const int group : groups()) *clusters += group * active_blocks(function, config->shared_bytes) / static_cast<int>(cluster);
    return SUCCESS;
}

API int cuStreamCreate(Stream** stream, unsigned) {
    ENTER();
    log("stream");
    *stream = new Stream;
    (*stream)->index = ++context->streams_made;
    context->streams.insert(*stream);
    return SUCCESS;
}

API int cuStreamDestroy_v2(Stream* stream) {
    ENTER();
    wait_for_all(context, lock, "cuStreamDestroy");
    context->streams.erase(stream);
    delete stream;
    return SUCCESS;
}

API int cuEventCreate(Event** event, unsigned flags) {
    ENTER();
    log("event");
    *event = new Event;
    (*event)->timed = !(flags & 2);
    context->events.insert(*event);
    return SUCCESS;
}

API int cuEventDestroy_v2(Event* event) {
    ENTER();
    context->events.erase(event);
    delete event;
    return SUCCESS;
}

API int cuEventRecord(Event* event, Stream* stream) {
    ENTER();
    if (!context->events.count(event) || !context->streams.count(stream)) return INVALID_HANDLE;
    enqueue(context, stream, "cuEventRecord", {}, [at_ms = event->at_ms] {
        *at_ms = now_ms();
        return SUCCESS;
    });
    event->recorded = true;
    event->stream = stream->index;
    event->position = stream->enqueued;
    event->clock = stream->clock;
    return SUCCESS;
}

API int cuEventQuery(Event* event) {
    ENTER();
    if (!context->events.count(event)) return INVALID_HANDLE;
    if (!event->recorded || forgets("query")) return SUCCESS;
    if (!run_until(context, stream_of(context, event->stream), event->position)) return NOT_READY;
    if (context->sticky != SUCCESS) return context->sticky;
    join(context->host, event->clock);
    return SUCCESS;
}

API int cuEventElapsedTime_v2(float* milliseconds, Event* from, Event* to) {
    ENTER();
    if (!from->timed || !to->timed) return INVALID_HANDLE;
    for (const Event* event : {from, to}) {
        const Stream* stream = stream_of(context, event->stream);
        if (!event->recorded || !stream || stream->done < event->position) return NOT_READY;
    }
    *milliseconds = static_cast<float>(*to->at_ms - *from->at_ms);
    return SUCCESS;
}

API int cuStreamWaitEvent(Stream* stream, Event* event, unsigned) {
    ENTER();
    if (!context->events.count(event) || !context->streams.count(stream)) return INVALID_HANDLE;
    if (!event->recorded || forgets("wait")) return SUCCESS;
    join(stream->clock, event->clock);
    enqueue(context, stream, "cuStreamWaitEvent", {}, nullptr);
    stream->pending.back()->wait_stream = event->stream;
    stream->pending.back()->wait_position = event->position;
    return SUCCESS;
}

API int cuMemAlloc_v2(u64* address, size_t bytes) {
    ENTER();
    log("alloc %zu", bytes);
    if (bytes == 0) return INVALID_VALUE;
    if (context->used + bytes > number("FAKE_CUDA_MEMORY", u64{1} << 40)) return OUT_OF_MEMORY;
    const u64 page = static_cast<u64>(sysconf(_SC_PAGESIZE));
    const u64 rounded = (bytes + 255) / 256 * 256, mapped = (rounded + page - 1) / page * page;
    void* mapping = mmap(nullptr, mapped + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED) return OUT_OF_MEMORY;
    u8* start = static_cast<u8*>(mapping);
    mprotect(start, mapped, PROT_READ | PROT_WRITE);
    std::memset(start, 0xff, mapped);  // NaN in every dtype
    mprotect(start, mapped, PROT_NONE);
    // It ends where the page that nobody can touch begins.
    const u64 first = reinterpret_cast<u64>(start) + mapped - rounded;
    context->memory[first] = {first, bytes, start, mapped};
    context->used += bytes;
    *address = first;
    return SUCCESS;
}

API int cuMemFree_v2(u64 address) {
    ENTER();
    wait_for_all(context, lock, "cuMemFree");
    const auto found = context->memory.find(address);
    if (found == context->memory.end()) return INVALID_VALUE;
    munmap(found->second.mapping, found->second.mapped + static_cast<u64>(sysconf(_SC_PAGESIZE)));
    context->used -= found->second.bytes;
    context->memory.erase(found);
    return SUCCESS;
}

API int cuMemGetAllocationGranularity(size_t* granularity, const AllocationProperties* wanted, int) {
    ENTER_DRIVER();
    if (!is_shareable(wanted)) return INVALID_VALUE;
    *granularity = GRANULARITY;
    return SUCCESS;
}

API int cuMemCreate(u64* handle, size_t bytes, const AllocationProperties* wanted, unsigned long long flags) {
    ENTER_DRIVER();
    log("create %zu", bytes);
    if (!is_shareable(wanted) || bytes == 0 || bytes % GRANULARITY != 0 || flags != 0) return INVALID_VALUE;
    Context& own = contexts[wanted->location.id];
    if (own.used + bytes > number("FAKE_CUDA_MEMORY", u64{1} << 40)) return OUT_OF_MEMORY;
    const std::string name = MEMORY_NAME + std::to_string(physical(wanted->location.id));
    const int descriptor = memfd_create(name.c_str(), MFD_CLOEXEC);
    if (descriptor < 0 || ftruncate(descriptor, static_cast<off_t>(bytes)) != 0) return OUT_OF_MEMORY;
    own.used += bytes;
    const std::vector<u8> left_behind(GRANULARITY, 0xa5);  // As if others' secrets had been there.
    for (u64 at = 0; at < bytes; at += GRANULARITY) {
        if (pwrite(descriptor, left_behind.data(), GRANULARITY, static_cast<off_t>(at)) < 0) return OUT_OF_MEMORY;
    }
    *handle = ++handles_made;
    handles[*handle] = std::make_shared<Memory>(descriptor, bytes, wanted->location.id, true);
    return SUCCESS;
}

API int cuMemRelease(u64 handle) {
    ENTER_DRIVER();
    return handles.erase(handle) == 1 ? SUCCESS : INVALID_VALUE;
}

API int cuMemExportToShareableHandle(int* descriptor, u64 handle, u32 type, unsigned long long flags) {
    ENTER_DRIVER();
    const auto found = handles.find(handle);
    if (found == handles.end() || type != POSIX_DESCRIPTOR || flags != 0) return INVALID_VALUE;
    *descriptor = fcntl(found->second->descriptor, F_DUPFD, 0);
    return *descriptor < 0 ? OUT_OF_MEMORY : SUCCESS;
}

API int cuMemImportFromShareableHandle(u64* handle, void* os_handle, u32 type) {
    ENTER_DRIVER();
    const int given = static_cast<int>(reinterpret_cast<intptr_t>(os_handle));
    const std::string start = std::string("/memfd:") + MEMORY_NAME;
    char name[256] = {0};
    struct stat about;
    const std::string link = "/proc/self/fd/" + std::to_string(given);
    if (type != POSIX_DESCRIPTOR || readlink(link.c_str(), name, sizeof name - 1) < 0) return INVALID_VALUE;
    if (std::strncmp(name, start.c_str(), start.size()) != 0 || fstat(given, &about) != 0) return INVALID_VALUE;
    const int on = std::atoi(name + start.size());
    for (int device = 0; device < device_count(); device++) {
        if (physical(device) != on) continue;
        *handle = ++handles_made;
        handles[*handle] = std::make_shared<Memory>(fcntl(given, F_DUPFD_CLOEXEC, 0), about.st_size, device, false);
        return SUCCESS;
    }
    return INVALID_DEVICE;
}

API int cuMemAddressReserve(u64* address, size_t bytes, size_t alignment, u64 wanted, unsigned long long flags) {
    ENTER_DRIVER();
    log("reserve %zu", bytes);
    if (bytes == 0 || bytes % GRANULARITY != 0 || alignment != 0 || wanted != 0 || flags != 0) return INVALID_VALUE;
    // Behind it is a page that nobody can touch.
    void* start = mmap(nullptr, bytes + static_cast<u64>(sysconf(_SC_PAGESIZE)), PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED) return OUT_OF_MEMORY;
    *address = reinterpret_cast<u64>(start);
    reservations[*address].bytes = bytes;
    return SUCCESS;
}

API int cuMemAddressFree(u64 address, size_t bytes) {
    ENTER_DRIVER();
    const auto found = reservations.find(address);
    if (found == reservations.end() || found->second.bytes != bytes) return INVALID_VALUE;
    if (found->second.memory) misused("addresses are given back that memory is mapped at");
    munmap(reinterpret_cast<void*>(address), bytes + static_cast<u64>(sysconf(_SC_PAGESIZE)));
    reservations.erase(found);
    return SUCCESS;
}

API int cuMemMap(u64 address, size_t bytes, size_t offset, u64 handle, unsigned long long flags) {
    ENTER_DRIVER();
    const auto place = reservations.find(address);
    const auto what = handles.find(handle);
    if (place == reservations.end() || what == handles.end() || offset != 0 || flags != 0) return INVALID_VALUE;
    if (place->second.memory || place->second.bytes != bytes || what->second->bytes != bytes) return INVALID_VALUE;
    void* mapped = mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_SHARED | MAP_FIXED,
                        what->second->descriptor, 0);
    if (mapped == MAP_FAILED) return OUT_OF_MEMORY;
    place->second.memory = what->second;
    return SUCCESS;
}

API int cuMemSetAccess(u64 address, size_t bytes, const AccessDescription* access, size_t count) {
    ENTER_DRIVER();
    const auto found = reservations.find(address);
    if (found == reservations.end() || !found->second.memory || found->second.bytes != bytes) return INVALID_VALUE;
    if (count != 1 || !is_device(access->location) || access->flags != READ_AND_WRITE) return INVALID_VALUE;
    // No device reaches another's memory.
    if (access->location.id != found->second.memory->device) return INVALID_DEVICE;
    contexts[access->location.id].memory[address] = {address, bytes, reinterpret_cast<u8*>(address), bytes};
    return SUCCESS;
}

API int cuMemUnmap(u64 address, size_t bytes) {
    ENTER_DRIVER();
    const auto found = reservations.find(address);
    if (found == reservations.end() || !found->second.memory || found->second.bytes != bytes) return INVALID_VALUE;
    must_be_over(address, bytes, "memory is unmapped");
    log("unmap %zu", bytes);
    mmap(reinterpret_cast<void*>(address), bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE,
         -1, 0);
    contexts[found->second.memory->device].memory.erase(address);
    found->second.memory.reset();
    return SUCCESS;
}

API int cuMemHostAlloc(void** address, size_t bytes, unsigned) {
    ENTER();
    log("host-alloc %zu", bytes);
    *address = std::aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!*address) return OUT_OF_MEMORY;
    context->pinned[*address] = bytes;
    return SUCCESS;
}

API int cuMemFreeHost(void* address) {
    ENTER();
    wait_for_all(context, lock, "cuMemFreeHost");
    if (context->pinned.erase(address) == 0) return INVALID_VALUE;
    std::free(address);
    return SUCCESS;
}

API int cuMemsetD8Async(u64 address, unsigned char value, size_t bytes, Stream* stream) {
    ENTER();
    log("memset %zu", bytes);
    enqueue(context, stream, "a memset", {device_access(context, address, bytes, true, "a memset")}, [=] {
        std::memset(reinterpret_cast<void*>(address), value, bytes);
        return SUCCESS;
    });
    return SUCCESS;
}

API int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, Stream* stream) {
    ENTER();
    log("upload %zu", bytes);
    enqueue(context, stream, "an upload",
            {host_access(context, from, bytes, false), device_access(context, to, bytes, true, "an upload")}, [=] {
                std::memcpy(reinterpret_cast<void*>(to), from, bytes);
                return SUCCESS;
            });
    return SUCCESS;
}

API int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, Stream* stream) {
    ENTER();
    log("download %zu", bytes);
    const bool stuck = has_fault(context, "stuck");
    enqueue(context, stream, "a download",
            {host_access(context, to, bytes, true), device_access(context, from, bytes, false, "a download")}, [=] {
                if (stuck) return NOT_READY;
                std::memcpy(to, reinterpret_cast<const void*>(from), bytes);
                return SUCCESS;
            });
    return SUCCESS;
}

API int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, Stream* stream) {
    ENTER();
    log("copy %zu", bytes);
    if (forgets("stream")) {
        static Stream* const other = new Stream;
        if (other->index == 0) other->index = ++context->streams_made;
        context->streams.insert(stream = other);
    }
    enqueue(context, stream, "a copy",
            {device_access(context, from, bytes, false, "a copy"), device_access(context, to, bytes, true, "a copy")},
            [=] {
                std::memmove(reinterpret_cast<void*>(to), reinterpret_cast<const void*>(from), bytes);
                return SUCCESS;
            });
    return SUCCESS;
}

API int cuLaunchKernelEx(const LaunchConfig* given, Function* function, void** parameters, void**) {
    ENTER();
    const LaunchConfig config = *given;
    if (!context->streams.count(config.stream)) return INVALID_HANDLE;
    const u32 cluster = cluster_of(config);
    if (cluster == 0) return INVALID_CLUSTER_SIZE;
    if (cluster > number("FAKE_CUDA_CLUSTER_MAX", 8)) return INVALID_CLUSTER_SIZE;
    if (config.shared_bytes > static_cast<u32>(function->shared_bytes)) return INVALID_VALUE;
    if (config.block_x == 0 || config.block_x > 1024) return INVALID_VALUE;
    log("launch %s blocks %u cluster %u shared %u carveout %d stream %u", function->name.c_str(), config.grid_x, cluster,
        config.shared_bytes, function->carveout, config.stream->index);
    if (function->name == "logitd_probe") {
        const u64 address = *static_cast<u64*>(parameters[0]);
        enqueue(context, config.stream, "the probe",
                {device_access(context, address, sizeof(logitd::Probe), true, "the probe")},
                [=] { return run_probe(reinterpret_cast<logitd::Probe*>(address)); });
        return SUCCESS;
    }
    if (function->name == "logitd_read") {
        const auto parameter = [&](int i) { return *static_cast<u64*>(parameters[i]); };
        const Reading reading = {parameter(0), parameter(1), parameter(2)};
        enqueue(context, config.stream, "a reading",
                {device_access(context, reading.from, reading.count * sizeof(uint4), false, "a reading"),
                 device_access(context, reading.sink, sizeof(unsigned), true, "a reading")},
                [=] { return run_read(reading); });
        return SUCCESS;
    }
    if (config.block_x != logitd::THREADS) misused("a block of another size than the kernels' is launched");
    if (function->name == "logitd_adjust") {
        const logitd::AdjustBatch batch = *static_cast<logitd::AdjustBatch*>(parameters[0]);
        if (config.grid_x != batch.row_count * batch.row_blocks) misused("the grid is not so many blocks a row");
        const u64 launch_number = context->samples;
        enqueue(context, config.stream, "a kernel that adjusts", {whole(context, batch.rows, true)}, [=] {
            return run_beside(config, launch_number, [&] { logitd::logitd_adjust(batch); });
        });
        return SUCCESS;
    }
    if (function->name == "logitd_cut") {
        const logitd::CutBatch all = *static_cast<logitd::CutBatch*>(parameters[0]);
        const logitd::Batch& batch = all.batch;
        if (config.grid_x != batch.row_count * batch.team_blocks) misused("the grid is not a team of blocks a row");
        const u64 launch_number = context->samples;
        enqueue(context, config.stream, "a kernel that cuts",
                {whole(context, all.cuts, true), whole(context, batch.control, true),
                 whole(context, batch.scratch, true), whole(context, batch.tiles, true)},
                [=] { return run_beside(config, launch_number, [&] { logitd::logitd_cut(all); }); });
        return SUCCESS;
    }
    if (function->name == "logitd_inspect") {
        const logitd::InspectBatch all = *static_cast<logitd::InspectBatch*>(parameters[0]);
        const logitd::Batch& batch = all.batch;
        if (config.grid_x != batch.row_count * batch.team_blocks) misused("the grid is not a team of blocks a row");
        const u64 launch_number = context->samples;
        // What made no answers has none to look at.
        const std::string fault = fault_of(context);
        if (fault == "hang" || fault == "sticky" || fault == "mute") return SUCCESS;
        enqueue(context, config.stream, "a kernel that inspects",
                {whole(context, all.asked, false), whole(context, batch.outcomes, true),
                 whole(context, batch.control, true), whole(context, batch.scratch, true),
                 whole(context, batch.tiles, true)},
                [=] { return run_beside(config, launch_number, [&] { logitd::logitd_inspect(all); }); });
        return SUCCESS;
    }
    const logitd::Batch batch = *static_cast<logitd::Batch*>(parameters[0]);
    const bool clusters = function->name == "logitd_sample_cluster";
    if (config.grid_x != batch.row_count * batch.team_blocks) misused("the grid is not a team of blocks a row");
    if (clusters && cluster != batch.team_blocks) misused("the team is not a cluster");
    context->samples++;
    if (has_fault(context, "oom") || has_fault(context, "stuck")) return OUT_OF_MEMORY;
    const u64 launch_number = context->samples;
    const std::string fault = fault_of(context);
    enqueue(context, config.stream, "a kernel",
            {whole(context, batch.rows, false), whole(context, batch.outcomes, true),
             whole(context, batch.control, true), whole(context, batch.scratch, true), whole(context, batch.tiles, true)},
            [=] { return run_sample(context, config, cluster, clusters, batch, launch_number, fault); });
    return SUCCESS;
}
