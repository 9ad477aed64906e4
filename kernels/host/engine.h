// Runs a kernel written against simt.h over a grid of blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

namespace simt {

// The order in which threads that could run do run.
enum class Order : uint32_t {
    Shuffled = 0,  // any of them, drawn anew at every switch; with odd seeds one of the latest
    First = 1,     // the one that has waited longest
    Last = 2,      // the one that could run last: one thread runs ahead as far as it can
};

struct Launch {
    uint32_t grid_blocks;
    uint32_t block_threads;
    uint32_t cluster_blocks;   // 1: no clusters
    uint32_t shared_bytes;
    uint32_t resident_blocks;  // how many blocks are on the machine at once; whole clusters, at least one
    uint64_t seed;
    Order order;
};

// Runs `kernel` once for every thread. Returns what went wrong, or an empty string.
std::string run(const Launch& launch, const std::function<void()>& kernel);

}  // namespace simt
