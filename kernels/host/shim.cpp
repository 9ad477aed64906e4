// One build of the kernels for the CPU, as a C function. Compiled once for each geometry, with
// LOGITD_SHIM_NAME naming it.

#include "../sample.cu"
#include "engine.h"

#include <cstddef>
#include <cstdio>

#define LOGITD_JOIN_(a, b) a##b
#define LOGITD_JOIN(a, b) LOGITD_JOIN_(a, b)

namespace {

// Mirrored in shim.rs.
struct ShimLaunch {
    uint64_t seed;
    uint32_t kernel;  // 0 grid, 1 cluster
    uint32_t order;
    uint32_t shared_bytes;
    uint32_t resident_blocks;
};

struct ShimGeometry {
    uint32_t threads;
    uint32_t list;
    uint32_t count_bins;
    uint32_t mass_bins;
    uint64_t shared_bytes;
    uint64_t scratch_bytes;
};

int report(const std::string& text, char* error, size_t error_bytes) {
    if (text.empty()) return 0;
    if (error_bytes > 0) std::snprintf(error, error_bytes, "%s", text.c_str());
    return 1;
}

// The launch of a kernel whose teams are no clusters.
simt::Launch unstaged(const logitd::Batch& batch, const ShimLaunch* shim) {
    return {batch.row_count * batch.team_blocks,
            logitd::THREADS,
            1,
            shim->shared_bytes,
            shim->resident_blocks,
            shim->seed,
            static_cast<simt::Order>(shim->order)};
}

}  // namespace

extern "C" void LOGITD_JOIN(logitd_shim_geometry_, LOGITD_SHIM_NAME)(ShimGeometry* geometry) {
    *geometry = {logitd::THREADS,   logitd::LIST,           logitd::COUNT_BINS,
                 logitd::MASS_BINS, sizeof(logitd::Shared), sizeof(logitd::Scratch)};
}

// Launches what adjusts rows before they are sampled. Returns 0, or writes why not.
extern "C" int LOGITD_JOIN(logitd_shim_adjust_, LOGITD_SHIM_NAME)(const logitd::AdjustBatch* batch,
                                                                  const ShimLaunch* shim, char* error,
                                                                  size_t error_bytes) {
    const simt::Launch launch = {batch->row_count * batch->row_blocks,
                                 logitd::THREADS,
                                 1,
                                 shim->shared_bytes,
                                 shim->resident_blocks,
                                 shim->seed,
                                 static_cast<simt::Order>(shim->order)};
    const logitd::AdjustBatch argument = *batch;
    return report(simt::run(launch, [&] { logitd::logitd_adjust(argument); }), error, error_bytes);
}

// Launches what cuts rows before they are sampled. Returns 0, or writes why not.
extern "C" int LOGITD_JOIN(logitd_shim_cut_, LOGITD_SHIM_NAME)(const logitd::CutBatch* all, const ShimLaunch* shim,
                                                               char* error, size_t error_bytes) {
    const logitd::CutBatch argument = *all;
    return report(simt::run(unstaged(all->batch, shim), [&] { logitd::logitd_cut(argument); }), error, error_bytes);
}

// Launches what is asked of rows afterwards. Returns 0, or writes why not.
extern "C" int LOGITD_JOIN(logitd_shim_inspect_, LOGITD_SHIM_NAME)(const logitd::InspectBatch* all,
                                                                   const ShimLaunch* shim, char* error,
                                                                   size_t error_bytes) {
    const logitd::InspectBatch argument = *all;
    return report(simt::run(unstaged(all->batch, shim), [&] { logitd::logitd_inspect(argument); }), error, error_bytes);
}

// Launches the batch. Returns 0, or writes why not.
extern "C" int LOGITD_JOIN(logitd_shim_sample_, LOGITD_SHIM_NAME)(const logitd::Batch* batch,
                                                                  const ShimLaunch* shim, char* error,
                                                                  size_t error_bytes) {
    const bool cluster = shim->kernel == 1;
    const simt::Launch launch = {batch->row_count * batch->team_blocks,
                                 logitd::THREADS,
                                 cluster ? batch->team_blocks : 1,
                                 shim->shared_bytes,
                                 shim->resident_blocks,
                                 shim->seed,
                                 static_cast<simt::Order>(shim->order)};
    const logitd::Batch argument = *batch;
    return report(simt::run(launch,
                            [&] {
                                if (cluster) {
                                    logitd::logitd_sample_cluster(argument);
                                } else {
                                    logitd::logitd_sample_grid(argument);
                                }
                            }),
                  error, error_bytes);
}

extern "C" int LOGITD_JOIN(logitd_shim_probe_, LOGITD_SHIM_NAME)(logitd::Probe* probe, char* error,
                                                                 size_t error_bytes) {
    const simt::Launch launch = {1, 1, 1, 0, 1, 0, simt::Order::First};
    return report(simt::run(launch, [&] { logitd::logitd_probe(probe); }), error, error_bytes);
}
