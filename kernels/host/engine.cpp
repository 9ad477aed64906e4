// The engine behind simt.h: fibers, and who waits for whom.

#include "engine.h"
#include "simt.h"

#include <cstdlib>
#include <deque>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#define SIMT_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SIMT_ASAN 1
#endif
#endif
#ifdef SIMT_ASAN
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// Switching fibers: saves what a called function must preserve and where it stands in `from`, and continues
// at `to`. Where there is no such switch below, swapcontext does it, with a system call each time.
#if defined(__ELF__) && defined(__x86_64__)
asm(R"(
.text
.globl logitd_simt_switch
.type logitd_simt_switch, @function
logitd_simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq (%rsi), %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size logitd_simt_switch, .-logitd_simt_switch
)");
#elif defined(__ELF__) && defined(__aarch64__)
asm(R"(
.text
.globl logitd_simt_switch
.type logitd_simt_switch, @function
logitd_simt_switch:
    sub sp, sp, #160
    stp x19, x20, [sp, #0]
    stp x21, x22, [sp, #16]
    stp x23, x24, [sp, #32]
    stp x25, x26, [sp, #48]
    stp x27, x28, [sp, #64]
    stp x29, x30, [sp, #80]
    stp d8, d9, [sp, #96]
    stp d10, d11, [sp, #112]
    stp d12, d13, [sp, #128]
    stp d14, d15, [sp, #144]
    mov x9, sp
    str x9, [x0]
    ldr x9, [x1]
    mov sp, x9
    ldp x19, x20, [sp, #0]
    ldp x21, x22, [sp, #16]
    ldp x23, x24, [sp, #32]
    ldp x25, x26, [sp, #48]
    ldp x27, x28, [sp, #64]
    ldp x29, x30, [sp, #80]
    ldp d8, d9, [sp, #96]
    ldp d10, d11, [sp, #112]
    ldp d12, d13, [sp, #128]
    ldp d14, d15, [sp, #144]
    add sp, sp, #160
    ret
.size logitd_simt_switch, .-logitd_simt_switch
)");
#else
#define SIMT_UCONTEXT 1
#include <ucontext.h>
#endif

#ifdef SIMT_UCONTEXT
using Context = ucontext_t;
static void logitd_simt_switch(Context* from, Context* to) { swapcontext(from, to); }
#else
using Context = void*;  // the stack pointer; everything else is on the stack
extern "C" void logitd_simt_switch(Context* from, Context* to);
#endif

// A context that starts `entry` on an empty stack.
static void make_context(Context* context, char* stack, size_t bytes, void (*entry)()) {
#ifdef SIMT_UCONTEXT
    getcontext(context);
    context->uc_stack.ss_sp = stack;
    context->uc_stack.ss_size = bytes;
    context->uc_link = nullptr;
    makecontext(context, entry, 0);
#else
    void** top = reinterpret_cast<void**>(stack + bytes);
#if defined(__x86_64__)
    // Six registers, and `ret` takes the entry; above it a place for the entry's own return address keeps
    // the stack aligned as at a call.
    top -= 8;
    std::memset(top, 0, 8 * sizeof *top);
    top[6] = reinterpret_cast<void*>(entry);
#else
    top -= 20;
    std::memset(top, 0, 20 * sizeof *top);
    top[11] = reinterpret_cast<void*>(entry);  // x30
#endif
    *context = top;
#endif
}

namespace simt {

__thread Self* self = nullptr;

namespace {

constexpr unsigned WARP = 32;
// At the far end of every stack, to see when one was used up.
constexpr uint64_t CANARY = 0x5f5f5f5f5f5f5f5full;
#ifdef SIMT_ASAN
constexpr size_t STACK_BYTES = 256 << 10;
#else
constexpr size_t STACK_BYTES = 64 << 10;
#endif

enum class State { Runnable, Waiting, Done };

struct Block;
struct Cluster;

}  // namespace

struct Fiber {
    Self self;
    Context context;
    char* stack;
    Block* block;
    State state;
    Place place;      // where it waits
    uint64_t result;  // of what it waited for
#ifdef SIMT_ASAN
    void* fake_stack;
#endif
};

namespace {

// Lanes that have come to a collective, until all that its mask names are there.
struct Meeting {
    Place place;
    Collective kind;
    unsigned mask;
    unsigned arrived = 0;
    uint64_t values[WARP];
    unsigned sources[WARP];
    Fiber* fibers[WARP];
};

// Threads that have come to a barrier.
struct Barrier {
    Place place{};
    std::vector<Fiber*> waiting;
    int count = 0, any = 0, all = 1;
};

struct Block {
    Cluster* cluster;
    std::vector<Fiber*> fibers;
    std::vector<std::vector<Meeting>> meetings;  // of each warp
    Barrier barrier;
    unsigned done = 0;
    unsigned char* shared = nullptr;
};

struct Cluster {
    std::vector<std::unique_ptr<Block>> blocks;
    Barrier barrier;
    unsigned blocks_done = 0;
};

// splitmix64: the order is a function of the seed on every platform.
struct Random {
    uint64_t state;
    uint64_t next() {
        uint64_t z = state += 0x9e3779b97f4a7c15ull;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
        z = (z ^ z >> 27) * 0x94d049bb133111ebull;
        return z ^ z >> 31;
    }
    size_t below(size_t bound) { return static_cast<size_t>(next() % bound); }
};

class Engine {
public:
    Engine(const Launch& launch, const std::function<void()>& kernel)
        : launch_(launch), kernel_(kernel), random_{launch.seed} {}
    ~Engine();

    std::string run();

    int block_barrier(Place place, Reduction reduction, int predicate);
    void cluster_barrier(Place place);
    void pause(Place place);
    uint64_t collective(Place place, Collective kind, unsigned mask, uint64_t value, unsigned source);
    [[noreturn]] void fail(Place place, const std::string& reason);
    void finish();
    void enter();

private:
    void start_cluster(uint32_t index);
    void end_cluster(Cluster* cluster);
    Fiber* make_fiber(Block* block, uint32_t block_index, uint32_t thread);
    size_t pick();
    bool is_unfair() const { return launch_.order == Order::Shuffled && launch_.seed % 2 == 1; }
    void resume(Fiber* fiber);
    void wait(Place place);
    void release(Barrier& barrier, Reduction reduction);
    void complete(Meeting& meeting);
    std::string stuck() const;

    const Launch& launch_;
    const std::function<void()>& kernel_;
    Random random_;
    std::vector<std::unique_ptr<Cluster>> clusters_;
    std::deque<Fiber*> runnable_;
    std::vector<char*> free_stacks_, all_stacks_;
    Fiber* current_ = nullptr;
    Context scheduler_{};
    std::string error_;
    uint64_t idle_ = 0;  // pauses since anything else happened
#ifdef SIMT_ASAN
    void* fake_stack_ = nullptr;
    const void* scheduler_bottom_ = nullptr;
    size_t scheduler_size_ = 0;
#endif
};

__thread Engine* engine = nullptr;

std::string describe(Place place) {
    const char* slash = std::strrchr(place.file, '/');
    return std::string(place.what) + " at " + (slash ? slash + 1 : place.file) + ":" + std::to_string(place.line);
}

bool same(Place a, Place b) { return a.line == b.line && std::strcmp(a.file, b.file) == 0; }

// The first function of every fiber.
void start_fiber() {
    engine->enter();
    engine->finish();
}

Engine::~Engine() {
    for (auto& cluster : clusters_) end_cluster(cluster.get());
    for (char* stack : all_stacks_) {
#ifdef SIMT_ASAN
        __asan_unpoison_memory_region(stack, STACK_BYTES);
#endif
        std::free(stack);
    }
}

Fiber* Engine::make_fiber(Block* block, uint32_t block_index, uint32_t thread) {
    Fiber* fiber = new Fiber();
    fiber->block = block;
    fiber->state = State::Runnable;
    fiber->self = {{thread, 0, 0},
                   {block_index, 0, 0},
                   {launch_.block_threads, 1, 1},
                   {launch_.grid_blocks, 1, 1},
                   thread % WARP,
                   block->shared};
    if (free_stacks_.empty()) {
        char* stack = static_cast<char*>(std::aligned_alloc(4096, STACK_BYTES));
        if (!stack) std::abort();
        all_stacks_.push_back(stack);
        free_stacks_.push_back(stack);
    }
    fiber->stack = free_stacks_.back();
    free_stacks_.pop_back();
#ifdef SIMT_ASAN
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
    fiber->fake_stack = nullptr;
#endif
    std::memcpy(fiber->stack, &CANARY, sizeof CANARY);
    make_context(&fiber->context, fiber->stack, STACK_BYTES, &start_fiber);
    return fiber;
}

void Engine::start_cluster(uint32_t index) {
    auto cluster = std::make_unique<Cluster>();
    for (uint32_t i = 0; i < launch_.cluster_blocks; i++) {
        auto block = std::make_unique<Block>();
        block->cluster = cluster.get();
        block->meetings.resize((launch_.block_threads + WARP - 1) / WARP);
        // Exactly as large as asked for, so that a sanitizer sees every byte beyond; and never zero.
        const size_t bytes = (launch_.shared_bytes + 15) / 16 * 16;
        block->shared = static_cast<unsigned char*>(std::aligned_alloc(16, bytes > 0 ? bytes : 16));
        if (!block->shared) std::abort();
        // What is in it at first is anybody's guess.
        std::memset(block->shared, launch_.seed / 2 % 2 == 0 ? 0xa5 : 0, bytes);
        for (uint32_t thread = 0; thread < launch_.block_threads; thread++) {
            Fiber* fiber = make_fiber(block.get(), index * launch_.cluster_blocks + i, thread);
            block->fibers.push_back(fiber);
            runnable_.push_back(fiber);
        }
        cluster->blocks.push_back(std::move(block));
    }
    clusters_.push_back(std::move(cluster));
}

void Engine::end_cluster(Cluster* cluster) {
    for (auto& block : cluster->blocks) {
        for (Fiber* fiber : block->fibers) {
            free_stacks_.push_back(fiber->stack);
            delete fiber;
        }
        block->fibers.clear();
        std::free(block->shared);
        block->shared = nullptr;
    }
}

std::string Engine::run() {
    if (launch_.cluster_blocks == 0 || launch_.grid_blocks % launch_.cluster_blocks != 0) {
        return "a grid of " + std::to_string(launch_.grid_blocks) + " blocks is not made of clusters of " +
               std::to_string(launch_.cluster_blocks);
    }
    // Blocks start in an order of their own as well.
    std::vector<uint32_t> pending(launch_.grid_blocks / launch_.cluster_blocks);
    for (size_t i = 0; i < pending.size(); i++) pending[i] = static_cast<uint32_t>(pending.size() - 1 - i);
    if (launch_.order == Order::Shuffled) {
        for (size_t i = pending.size(); i > 1; i--) std::swap(pending[i - 1], pending[random_.below(i)]);
    }
    const size_t slots = launch_.resident_blocks / launch_.cluster_blocks;
    Engine* outer = engine;
    engine = this;
    while (error_.empty()) {
        while (!pending.empty() && clusters_.size() < (slots > 0 ? slots : 1)) {
            start_cluster(pending.back());
            pending.pop_back();
        }
        if (clusters_.empty()) break;
        if (runnable_.empty()) {
            error_ = stuck();
            break;
        }
        const size_t at = pick();
        Fiber* fiber = runnable_[at];
        if (launch_.order == Order::Shuffled) {
            runnable_[at] = runnable_.back();
            runnable_.pop_back();
        } else {
            runnable_.erase(runnable_.begin() + static_cast<std::ptrdiff_t>(at));
        }
        resume(fiber);
        if (fiber->state == State::Done) {
            Cluster* cluster = fiber->block->cluster;
            if (cluster->blocks_done == cluster->blocks.size()) {
                end_cluster(cluster);
                for (size_t i = 0; i < clusters_.size(); i++) {
                    if (clusters_[i].get() == cluster) {
                        clusters_.erase(clusters_.begin() + static_cast<std::ptrdiff_t>(i));
                        break;
                    }
                }
            }
        }
    }
    engine = outer;
    self = nullptr;
    return error_;
}

size_t Engine::pick() {
    switch (launch_.order) {
        case Order::First: return 0;
        case Order::Last: return runnable_.size() - 1;
        default: {
            // Any thread, or (every other seed) one of those that became runnable last: a warp runs far ahead
            // of the others, which a fair draw hardly ever lets it do.
            const size_t size = runnable_.size();
            const size_t window = is_unfair() && size > 2 * WARP ? 2 * WARP : size;
            return size - 1 - random_.below(window);
        }
    }
}

void Engine::resume(Fiber* fiber) {
    current_ = fiber;
    self = &fiber->self;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&fake_stack_, fiber->stack, STACK_BYTES);
#endif
    logitd_simt_switch(&scheduler_, &fiber->context);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(fake_stack_, nullptr, nullptr);
#endif
    uint64_t canary;
    std::memcpy(&canary, fiber->stack, sizeof canary);
    if (canary != CANARY && error_.empty()) error_ = "a thread has used up its stack";
}

// Back to the scheduler, until the current fiber is runnable again.
void Engine::wait(Place place) {
    Fiber* fiber = current_;
    fiber->place = place;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(&fiber->fake_stack, scheduler_bottom_, scheduler_size_);
#endif
    logitd_simt_switch(&fiber->context, &scheduler_);
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(fiber->fake_stack, &scheduler_bottom_, &scheduler_size_);
#endif
}

void Engine::enter() {
#ifdef SIMT_ASAN
    __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom_, &scheduler_size_);
#endif
    kernel_();
}

void Engine::finish() {
    Fiber* fiber = current_;
    fiber->state = State::Done;
    idle_ = 0;
    Block* block = fiber->block;
    if (++block->done == block->fibers.size()) block->cluster->blocks_done++;
#ifdef SIMT_ASAN
    __sanitizer_start_switch_fiber(nullptr, scheduler_bottom_, scheduler_size_);
#endif
    logitd_simt_switch(&fiber->context, &scheduler_);
    std::abort();  // a finished fiber is never resumed
}

// Ends the launch. The fibers are abandoned where they stand: device code owns nothing.
void Engine::fail(Place place, const std::string& reason) {
    Fiber* fiber = current_;
    if (error_.empty()) {
        error_ = describe(place) + ", block " + std::to_string(fiber->self.block_idx.x) + " thread " +
                 std::to_string(fiber->self.thread_idx.x) + ": " + reason;
    }
    fiber->state = State::Waiting;
    wait(place);
    std::abort();  // the scheduler stops at the first error
}

void Engine::release(Barrier& barrier, Reduction reduction) {
    const int value = reduction == Reduction::Count ? barrier.count
                      : reduction == Reduction::Or  ? barrier.any
                                                    : barrier.all;
    for (Fiber* fiber : barrier.waiting) {
        fiber->result = static_cast<uint64_t>(value);
        fiber->state = State::Runnable;
        runnable_.push_back(fiber);
    }
    barrier.waiting.clear();
    barrier.count = barrier.any = 0;
    barrier.all = 1;
    idle_ = 0;
}

int Engine::block_barrier(Place place, Reduction reduction, int predicate) {
    Fiber* fiber = current_;
    Barrier& barrier = fiber->block->barrier;
    if (!barrier.waiting.empty() && !same(barrier.place, place)) {
        fail(place, "other threads of the block wait at another barrier: " + describe(barrier.place));
    }
    barrier.place = place;
    barrier.count += predicate != 0;
    barrier.any |= predicate != 0;
    barrier.all &= predicate != 0;
    barrier.waiting.push_back(fiber);
    fiber->state = State::Waiting;
    if (barrier.waiting.size() == fiber->block->fibers.size()) release(barrier, reduction);
    wait(place);
    return static_cast<int>(fiber->result);
}

void Engine::cluster_barrier(Place place) {
    Fiber* fiber = current_;
    Cluster* cluster = fiber->block->cluster;
    Barrier& barrier = cluster->barrier;
    if (!barrier.waiting.empty() && !same(barrier.place, place)) {
        fail(place, "other threads of the cluster wait at another barrier: " + describe(barrier.place));
    }
    barrier.place = place;
    barrier.waiting.push_back(fiber);
    fiber->state = State::Waiting;
    if (barrier.waiting.size() == cluster->blocks.size() * launch_.block_threads) release(barrier, Reduction::Count);
    wait(place);
}

void Engine::pause(Place place) {
    // Every thread on the machine may have to look at what it waits for before one of them sees it.
    const uint64_t limit = 1000 + 100ull * launch_.resident_blocks * launch_.block_threads;
    if (++idle_ > limit) fail(place, "nothing but waiting in turns has happened for long: a wait without end");
    const bool to_front = launch_.order == Order::Last || is_unfair();
    runnable_.insert(to_front ? runnable_.begin() : runnable_.end(), current_);
    wait(place);
}

uint64_t Engine::collective(Place place, Collective kind, unsigned mask, uint64_t value, unsigned source) {
    Fiber* fiber = current_;
    const unsigned lane = fiber->self.lane;
    if (!(mask >> lane & 1)) fail(place, "lane " + std::to_string(lane) + " is not in its own mask");
    if (kind == Collective::Shuffle && (source >= WARP || !(mask >> source & 1))) {
        fail(place, "a shuffle from lane " + std::to_string(source) + ", which takes no part");
    }
    auto& meetings = fiber->block->meetings[fiber->self.thread_idx.x / WARP];
    Meeting* meeting = nullptr;
    for (Meeting& other : meetings) {
        if (!(other.mask & mask)) continue;
        if (other.mask != mask || !same(other.place, place)) {
            fail(place, "other lanes wait at " + describe(other.place) + " with a mask that names this lane too");
        }
        meeting = &other;
    }
    if (!meeting) {
        meetings.emplace_back();
        meeting = &meetings.back();
        meeting->place = place;
        meeting->kind = kind;
        meeting->mask = mask;
    }
    meeting->arrived |= 1u << lane;
    meeting->values[lane] = value;
    meeting->sources[lane] = source;
    meeting->fibers[lane] = fiber;
    fiber->state = State::Waiting;
    if (meeting->arrived == mask) {
        complete(*meeting);
        meetings.erase(meetings.begin() + (meeting - meetings.data()));
        idle_ = 0;
    }
    wait(place);
    return fiber->result;
}

void Engine::complete(Meeting& meeting) {
    uint32_t sum = 0, most = 0, least = UINT32_MAX, ballot = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(meeting.mask >> lane & 1)) continue;
        const uint32_t value = static_cast<uint32_t>(meeting.values[lane]);
        sum += value;
        most = value > most ? value : most;
        least = value < least ? value : least;
        ballot |= (value != 0 ? 1u : 0u) << lane;
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (!(meeting.mask >> lane & 1)) continue;
        uint64_t result = 0;
        switch (meeting.kind) {
            case Collective::Sync: break;
            case Collective::Shuffle: result = meeting.values[meeting.sources[lane]]; break;
            case Collective::Ballot: result = ballot; break;
            case Collective::Any: result = ballot != 0; break;
            case Collective::All: result = ballot == meeting.mask; break;
            case Collective::Add: result = sum; break;
            case Collective::Max: result = most; break;
            case Collective::Min: result = least; break;
        }
        meeting.fibers[lane]->result = result;
        meeting.fibers[lane]->state = State::Runnable;
        runnable_.push_back(meeting.fibers[lane]);
    }
}

// Nobody can run: who waits where. The most telling line comes first.
std::string Engine::stuck() const {
    std::string text = "deadlock:";
    size_t named = 0;
    for (const auto& cluster : clusters_) {
        for (const auto& block : cluster->blocks) {
            std::vector<std::pair<Place, unsigned>> places;
            for (const Fiber* fiber : block->fibers) {
                if (fiber->state != State::Waiting) continue;
                bool known = false;
                for (auto& entry : places) {
                    if (!same(entry.first, fiber->place)) continue;
                    entry.second++;
                    known = true;
                }
                if (!known) places.push_back({fiber->place, 1});
            }
            if (places.empty() || ++named > 4) continue;
            text += " block " + std::to_string(block->fibers[0]->self.block_idx.x) + ": ";
            for (const auto& entry : places) {
                text += std::to_string(entry.second) + " threads wait for " + describe(entry.first) + ", ";
            }
            text += std::to_string(block->done) + " have returned;";
        }
    }
    return text;
}

}  // namespace

std::string run(const Launch& launch, const std::function<void()>& kernel) {
    Engine instance(launch, kernel);
    return instance.run();
}

int block_barrier(Place place, Reduction reduction, int predicate) {
    return engine->block_barrier(place, reduction, predicate);
}
void cluster_barrier(Place place) { engine->cluster_barrier(place); }
void pause(Place place) { engine->pause(place); }
uint64_t collective(Place place, Collective kind, unsigned mask, uint64_t value, unsigned source) {
    return engine->collective(place, kind, mask, value, source);
}
void fail(Place place, const char* reason) { engine->fail(place, reason); }

}  // namespace simt
