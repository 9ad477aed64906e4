// core/src/adjustments/: what is done to single logits of a row before it is sampled. The host has worked out which
// tokens are banned and which are touched; what becomes of a logit is computed where it lies.
//
// A row is copied in one pass, -inf in place of what the mask bans. Then the touched tokens are written. Each block has
// tokens of its own, and finds those that are touched by bisection.
#pragma once
#include "abi.cuh"
#include "block.cuh"
#include "isa.cuh"
#include "logits.cuh"

namespace logitd {
namespace {

// The new logit of a touched token, each operation rounded once.
DEVICE float touched_logit(const AdjustDescriptor* row, const Touch& touch, float x) {
    if (touch.bias != 0.0f) x = __fadd_rn(x, touch.bias);
    if (touch.count != NOT_SEEN) {
        if (row->repetition != 1.0f) {
            x = x > 0.0f ? __fdiv_rn(x, row->repetition) : __fmul_rn(x, row->repetition);
        }
        if (touch.count > 0 && row->frequency != 0.0f) {
            x = __fsub_rn(x, __fmul_rn(row->frequency, __uint2float_rn(touch.count)));
        }
        if (touch.count > 0 && row->presence != 0.0f) x = __fsub_rn(x, row->presence);
    }
    if (touch.dry > 0.0f) x = __fsub_rn(x, touch.dry);
    return x;
}

// Whether a token could be sampled, or spoils its row.
DEVICE bool is_there(float x) { return x > NEGATIVE_INFINITY || x != x; }

// The stored logit of one token.
template <class D> DEVICE u32 stored_bits(u64 from, u32 token) {
    if (D::SIZE == 4) return reinterpret_cast<const u32*>(from)[token];
    return reinterpret_cast<const u16*>(from)[token];
}

template <class D> DEVICE float stored_logit(u64 from, u32 token) {
    const u32 bits = stored_bits<D>(from, token);
    return D::widen(&bits, 0);
}

// Eight neighbours of which `count` are in the row, as they are stored.
template <class D> DEVICE Share<D> read_eight(u64 from, u32 first, u32 count) {
    if (count == SHARE && from % 16 == 0) {
        return read_vectors<D>(reinterpret_cast<const uint4*>(from + static_cast<u64>(first) * D::SIZE));
    }
    const View view = {reinterpret_cast<const unsigned char*>(from), 0, first + count, 0};
    return read_edge<D>(view, first);
}

template <class D> DEVICE void write_eight(u64 to, u32 first, u32 count, const Share<D>& share) {
    if (count == SHARE && to % 16 == 0) {
        uint4* vectors = reinterpret_cast<uint4*>(to + static_cast<u64>(first) * D::SIZE);
#pragma unroll
        for (u32 i = 0; i < Share<D>::VECTORS; i++) {
            const u32* words = share.words + i * 4;
            vectors[i] = make_uint4(words[0], words[1], words[2], words[3]);
        }
        return;
    }
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        if (i >= count) continue;
        if (D::SIZE == 4) {
            reinterpret_cast<u32*>(to)[first + i] = share.words[i % (Share<D>::VECTORS * 4)];
        } else {
            reinterpret_cast<u16*>(to)[first + i] = static_cast<u16>(share.words[i / 2] >> (i % 2 * 16));
        }
    }
}

// Makes -inf of each of eight logits whose bit is 0.
template <class D> DEVICE void ban(Share<D>& share, u32 allowed) {
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) {
        if (allowed >> i & 1) continue;
        if (D::SIZE == 4) {
            share.words[i % (Share<D>::VECTORS * 4)] = D::FILL;
        } else {
            const u32 half = 0xffffu << (i % 2 * 16);
            share.words[i / 2] = (share.words[i / 2] & ~half) | (D::FILL & half);
        }
    }
}

// How many of the touched tokens come before this one.
DEVICE u32 touches_before(const Touch* touches, u32 count, u32 token) {
    u32 low = 0;
    while (low < count) {
        const u32 middle = (low + count) / 2;
        if (touches[middle].token < token) low = middle + 1;
        else count = middle;
    }
    return low;
}

template <class D> DEVICE void adjust_row(AdjustDescriptor* row, u32 block, u32 blocks, u32* shared) {
    const u32* mask = reinterpret_cast<const u32*>(row->mask);
    const Touch* touches = reinterpret_cast<const Touch*>(row->touches);
    const u32 eights = (row->vocab_size + SHARE - 1) / SHARE;
    const u32 begin = eights * block / blocks * SHARE;
    const u32 end = min(eights * (block + 1) / blocks * SHARE, row->vocab_size);
    const u64 from = row->from, to = row->to;
    const bool widens = row->to_dtype != row->from_dtype;
    bool there = false;
    for (u32 first = begin + thread_index() * SHARE; first < end; first += THREADS * SHARE) {
        const u32 allowed = mask[first / 32] >> (first % 32) & 0xffu;
        if (to == from && allowed == 0xffu) continue;
        const u32 count = min(end - first, SHARE);
        Share<D> share = read_eight<D>(from, first, count);
        float x[SHARE];
        widen_share<D>(share, x);
#pragma unroll
        for (u32 i = 0; i < SHARE; i++) there |= i < count && allowed >> i & 1 && is_there(x[i]);
        if (widens) {
            Share<Format<F32>> wide;
#pragma unroll
            for (u32 i = 0; i < SHARE; i++) wide.words[i] = __float_as_uint(x[i]);
            ban(wide, allowed);
            write_eight(to, first, count, wide);
        } else {
            ban(share, allowed);
            write_eight(to, first, count, share);
        }
    }
    // Touched tokens are written over what was copied.
    __syncthreads();
    const u32 touched_end = touches_before(touches, row->touch_count, end);
    for (u32 i = touches_before(touches, row->touch_count, begin) + thread_index(); i < touched_end; i += THREADS) {
        const Touch touch = touches[i];
        const float x = stored_logit<D>(from, touch.token);
        there |= is_there(x);
        reinterpret_cast<float*>(to)[touch.token] = touched_logit(row, touch, x);
    }
    if (row->stop_count == 0) return;

    // The last block to come here knows whether anything is left without the stop tokens.
    const u32 found = static_cast<u32>(__syncthreads_count(there)) > 0;
    if (thread_index() == 0) {
        __threadfence();
        const u32 before = atomicAdd(&row->arrived, 1u + (found << 16));
        *shared = (before & 0xffffu) == blocks - 1 && before >> 16 == 0 && found == 0;
        __threadfence();
    }
    __syncthreads();
    if (*shared == 0) return;
    for (u32 i = row->touch_count + thread_index(); i < row->touch_count + row->stop_count; i += THREADS) {
        const Touch touch = touches[i];
        const float x = stored_logit<D>(from, touch.token);
        reinterpret_cast<float*>(to)[touch.token] = touched_logit(row, touch, x);
    }
}

}  // namespace
}  // namespace logitd
