// One build of the kernels as a process of its own: launches come in on the standard input, results go
// out on the standard output. What a build must not share with the caller (a sanitizer, a planted fault
// that runs wild) runs this way. `tests/sampler/proof/runner.rs` has the other end.
//
// The process says hello with its geometry and the addresses of its memory, and then answers each
// request with a reply. It ends when its input does.

#include "shim.cpp"

#include <csignal>
#include <cstdlib>
#include <string>
#include <vector>

#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(address, bytes) ((void)(address), (void)(bytes))
#endif

// Which planted fault is at work, in builds that have some; 0: none.
unsigned logitd_fault = 0;

namespace {

// Nothing that is launched here takes that long, unless it never ends.
constexpr unsigned LAUNCH_SECONDS_MAX = 300;

struct Sizes {
    uint64_t rows, input_bytes, output_bytes, tiles_bytes;
};

struct Hello {
    ShimGeometry geometry;
    uint64_t input, output, control, scratch, tiles;
};

struct Request {
    uint32_t command;  // 0 sample, 1 probe: no bytes follow, and a Probe is answered
    uint32_t reserved;
    ShimLaunch shim;
    logitd::Batch batch;
    logitd::AdjustBatch adjust;       // with rows where there is such a launch
    logitd::CutBatch cut;             // likewise
    logitd::InspectBatch inspect[2];
    uint64_t input_bytes, output_bytes;
};

struct Reply {
    uint32_t failed;  // 0: the output follows; 1: a text
    uint32_t reserved;
    uint64_t bytes;
};

void must(bool done) {
    if (!done) std::exit(0);
}

template <class T> bool take(T* to, size_t bytes) { return std::fread(to, 1, bytes, stdin) == bytes; }

void give(const void* from, size_t bytes) { must(std::fwrite(from, 1, bytes, stdout) == bytes); }

void answer(uint32_t failed, const void* from, size_t bytes) {
    const Reply reply = {failed, 0, bytes};
    give(&reply, sizeof reply);
    give(from, bytes);
    must(std::fflush(stdout) == 0);
}

// Memory of which a launch may use the first bytes.
struct Memory {
    unsigned char* start = nullptr;
    size_t size = 0;

    void allocate(size_t bytes, int fill) {
        size = (bytes + 127) / 128 * 128;
        start = static_cast<unsigned char*>(std::aligned_alloc(128, size));
        must(start != nullptr);
        std::memset(start, fill, size);
    }

    void open(size_t bytes) {
        ASAN_UNPOISON_MEMORY_REGION(start, size);
        ASAN_POISON_MEMORY_REGION(start + bytes, size - bytes);
    }
};

struct Machine {
    Memory input, output, control, scratch, tiles;

    // Everything but the descriptors and what they speak of is out of bounds. Ones are a NaN in every dtype: where no
    // sanitizer looks on, whoever reads beside a row has another status.
    void place_input(const Request& request, const std::vector<unsigned char>& bytes) {
        input.open(input.size);
        std::memset(input.start, 0xff, input.size);
        std::memcpy(input.start, bytes.data(), bytes.size());
        const auto rows = descriptors<logitd::RowDescriptor>(request.batch.rows, request.batch.row_count);
        const auto changes = descriptors<logitd::AdjustDescriptor>(request.adjust.rows, request.adjust.row_count);
        const auto cuts = descriptors<logitd::CutDescriptor>(request.cut.cuts, request.cut.batch.row_count);
        auto asked = descriptors<logitd::InspectDescriptor>(request.inspect[0].asked, request.inspect[0].batch.row_count);
        const auto more = descriptors<logitd::InspectDescriptor>(request.inspect[1].asked, request.inspect[1].batch.row_count);
        ASAN_POISON_MEMORY_REGION(input.start, input.size);
        allow(request.batch.rows, rows.size() * sizeof rows[0]);
        allow(request.adjust.rows, changes.size() * sizeof changes[0]);
        allow(request.cut.cuts, cuts.size() * sizeof cuts[0]);
        allow(request.inspect[0].asked, asked.size() * sizeof asked[0]);
        allow(request.inspect[1].asked, more.size() * sizeof more[0]);
        for (const auto& row : rows) allow_row(row);
        for (const auto& change : changes) {
            allow(change.from, change.vocab_size * size_of(change.from_dtype));
            allow(change.to, change.vocab_size * size_of(change.to_dtype));
            allow(change.mask, (change.vocab_size + 31) / 32 * sizeof(uint32_t));
            allow(change.touches, (change.touch_count + change.stop_count) * sizeof(logitd::Touch));
        }
        for (const auto& cut : cuts) {
            allow_row(cut.row);
            allow(cut.to, cut.row.vocab_size * size_of(cut.row.dtype));
        }
        asked.insert(asked.end(), more.begin(), more.end());
        for (const auto& of : asked) {
            allow_row(of.row);
            allow(of.ids, of.id_count * sizeof(uint32_t));
        }
    }

    template <class T> static std::vector<T> descriptors(uint64_t address, uint32_t count) {
        const T* first = reinterpret_cast<const T*>(address);
        return std::vector<T>(first, first + count);
    }

    static size_t size_of(uint32_t dtype) { return dtype == logitd::F32 ? 4 : 2; }

    static void allow(uint64_t address, size_t bytes) {
        ASAN_UNPOISON_MEMORY_REGION(reinterpret_cast<unsigned char*>(address), bytes);
    }

    static void allow_row(const logitd::RowDescriptor& row) {
        allow(row.logits, row.vocab_size * size_of(row.dtype));
        if (row.ids != 0) allow(row.ids, row.vocab_size * sizeof(uint32_t));
    }

    std::string sample(const Request& request, const std::vector<unsigned char>& bytes) {
        const logitd::Batch& batch = request.batch;
        place_input(request, bytes);
        output.open(output.size);
        std::memset(output.start, 0xff, output.size);
        output.open(request.output_bytes);
        control.open(sizeof(logitd::Control));
        scratch.open(batch.row_count * sizeof(logitd::Scratch));
        tiles.open(size_t{batch.row_count} * batch.tile_capacity * 2 * sizeof(uint64_t));
        char error[1024] = {};
        alarm(LAUNCH_SECONDS_MAX);
        const std::string failure = launch(request, error);
        alarm(0);
        return failure;
    }

    // Every kernel in its turn. What went wrong, or nothing.
    template <size_t SIZE> std::string launch(const Request& request, char (&error)[SIZE]) {
        const char* const unclean = "the launch did not leave its memory as it found it";
        ShimLaunch shim = request.shim;
        if (request.adjust.row_count > 0) {
            shim.shared_bytes = 16;
            LOGITD_JOIN(logitd_shim_adjust_, LOGITD_SHIM_NAME)(&request.adjust, &shim, error, SIZE);
            if (error[0] != 0) return error;
        }
        const uint32_t rows = request.batch.row_count;
        shim.shared_bytes = request.shim.shared_bytes - request.batch.stage_bytes;
        if (request.cut.batch.row_count > 0) {
            LOGITD_JOIN(logitd_shim_cut_, LOGITD_SHIM_NAME)(&request.cut, &shim, error, SIZE);
            if (error[0] != 0) return error;
            if (!is_clean(rows)) return unclean;
        }
        LOGITD_JOIN(logitd_shim_sample_, LOGITD_SHIM_NAME)(&request.batch, &request.shim, error, SIZE);
        if (error[0] != 0) return error;
        if (!is_clean(rows)) return unclean;
        for (const logitd::InspectBatch& inspect : request.inspect) {
            if (inspect.batch.row_count == 0) continue;
            LOGITD_JOIN(logitd_shim_inspect_, LOGITD_SHIM_NAME)(&inspect, &shim, error, SIZE);
            if (error[0] != 0) return error;
            if (!is_clean(rows)) return unclean;
        }
        return "";
    }

    // Everything that is zero between launches is.
    bool is_clean(uint32_t rows) const {
        const auto zero = [](const unsigned char* from, size_t bytes) {
            for (size_t i = 0; i < bytes; i++) {
                if (from[i] != 0) return false;
            }
            return true;
        };
        const size_t list = sizeof(logitd::Scratch::list);
        for (uint32_t row = 0; row < rows; row++) {
            if (!zero(scratch.start + row * sizeof(logitd::Scratch), sizeof(logitd::Scratch) - list)) return false;
        }
        return zero(control.start, sizeof(logitd::Control));
    }
};

std::string probe(logitd::Probe* probe) {
    char error[1024] = {};
    LOGITD_JOIN(logitd_shim_probe_, LOGITD_SHIM_NAME)(probe, error, sizeof error);
    return error;
}

}  // namespace

// Usage: runner [FAULT].
int main(int argc, char** argv) {
    if (argc > 1) logitd_fault = static_cast<unsigned>(std::strtoul(argv[1], nullptr, 10));
    Sizes sizes;
    must(take(&sizes, sizeof sizes));
    Machine machine;
    machine.input.allocate(sizes.input_bytes, 0xff);
    machine.output.allocate(sizes.output_bytes, 0xff);
    machine.control.allocate(sizeof(logitd::Control), 0);
    machine.scratch.allocate(sizes.rows * sizeof(logitd::Scratch), 0);
    machine.tiles.allocate(sizes.tiles_bytes, 0xff);
    Hello hello = {};
    LOGITD_JOIN(logitd_shim_geometry_, LOGITD_SHIM_NAME)(&hello.geometry);
    const auto address = [](const Memory& memory) { return reinterpret_cast<uint64_t>(memory.start); };
    hello.input = address(machine.input);
    hello.output = address(machine.output);
    hello.control = address(machine.control);
    hello.scratch = address(machine.scratch);
    hello.tiles = address(machine.tiles);
    give(&hello, sizeof hello);
    must(std::fflush(stdout) == 0);

    Request request;
    while (take(&request, sizeof request)) {
        std::string error;
        if (request.command == 1) {
            logitd::Probe question;
            must(take(&question, sizeof question));
            error = probe(&question);
            if (error.empty()) answer(0, &question, sizeof question);
        } else {
            std::vector<unsigned char> bytes(request.input_bytes);
            must(take(bytes.data(), bytes.size()));
            error = machine.sample(request, bytes);
            if (error.empty()) answer(0, machine.output.start, request.output_bytes);
        }
        if (!error.empty()) answer(1, error.data(), error.size());
    }
    return 0;
}
