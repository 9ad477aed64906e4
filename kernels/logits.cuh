// Reading a row: aligned 16-byte loads, exact heads and tails, and keys as narrow as the dtype allows.
//
// A row is seen as slots. Slot 0 lies at the row's address rounded down to 16 bytes, so the row's first
// token is slot `lead`. Eight slots are a lane's share; 32 shares are a tile, the unit that a warp
// reads at once and the unit of every summary (maximum, mass) of a part of a row. Slots outside the row
// are never read: they hold -inf, which no cut keeps and which has no mass.
#pragma once
#include "abi.cuh"
#include "isa.cuh"
#include "key.cuh"

namespace logitd {
namespace {

constexpr u32 LANES = 32;
constexpr u32 SHARE = 8;
constexpr u32 TILE = LANES * SHARE;
constexpr u32 FULL_WARP = 0xffffffffu;

#define NEGATIVE_INFINITY __uint_as_float(0xff800000u)

// A dtype. Widened to f32, its values leave the low GRAIN bits of key32 without meaning: equal for all
// positive values, and equal for all negative ones. A key is key32 without them.
template <u32 DTYPE> struct Format;

template <> struct Format<F16> {
    static constexpr u32 SIZE = 2, GRAIN = 13, FILL = 0xfc00fc00u;
    DEVICE float widen(const u32* words, u32 i) { return f16_to_f32(words[i / 2] >> (i % 2 * 16) & 0xffffu); }
};

template <> struct Format<BF16> {
    static constexpr u32 SIZE = 2, GRAIN = 16, FILL = 0xff80ff80u;
    DEVICE float widen(const u32* words, u32 i) {
        return __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000u : words[i / 2] << 16);
    }
};

template <> struct Format<F32> {
    static constexpr u32 SIZE = 4, GRAIN = 0, FILL = 0xff800000u;
    DEVICE float widen(const u32* words, u32 i) { return __uint_as_float(words[i]); }
};

template <class D> DEVICE u32 key_of(float x) { return key32(x) >> D::GRAIN; }

// The value of a key of this dtype. A zero comes back as +0.0.
template <class D> DEVICE float value_of(u32 key) {
    const u32 low = (1u << D::GRAIN) - 1;
    const u32 full = key << D::GRAIN;
    return value32(full >> 31 ? full : full | low);
}

template <class D> struct Keys {
    static constexpr u32 NAN_KEY = 0xffffffffu >> D::GRAIN;
    static constexpr u32 INFINITE = 0xff800000u >> D::GRAIN;
    static constexpr u32 CANDIDATE_MIN = (0x007fffffu >> D::GRAIN) + 1;  // the least key above -inf's
};

// Where a row lies.
struct View {
    const unsigned char* base;  // address of slot 0
    u32 lead;                   // the slot of token 0
    u32 end;                    // one past the slot of the last token
    u32 tiles;
};

template <class D> DEVICE View view_of(const RowDescriptor* row) {
    View view;
    const u64 misalignment = row->logits & 15;
    view.base = reinterpret_cast<const unsigned char*>(row->logits - misalignment);
    view.lead = static_cast<u32>(misalignment) / D::SIZE;
    view.end = view.lead + row->vocab_size;
    view.tiles = (view.end + TILE - 1) / TILE;
    return view;
}

// A lane's share of a tile as it is stored.
template <class D> struct Share {
    static constexpr u32 VECTORS = SHARE * D::SIZE / 16;
    u32 words[VECTORS * 4];
};

template <class D> DEVICE Share<D> read_vectors(const uint4* from) {
    Share<D> share;
#pragma unroll
    for (u32 i = 0; i < Share<D>::VECTORS; i++) {
        const uint4 v = from[i];
        share.words[i * 4] = v.x;
        share.words[i * 4 + 1] = v.y;
        share.words[i * 4 + 2] = v.z;
        share.words[i * 4 + 3] = v.w;
    }
    return share;
}

// A share that reaches over an end of the row: token by token, from the last one on, each before those that are there. Not
// unrolled: it is in many places, and few tiles need it.
template <class D> DEVICE Share<D> read_edge(const View& view, u32 first) {
    constexpr u32 WORDS = Share<D>::VECTORS * 4;
    Share<D> share;
#pragma unroll
    for (u32 i = 0; i < WORDS; i++) share.words[i] = D::FILL;
#pragma unroll 1
    for (u32 slot = first + SHARE; slot-- > first;) {
        const bool inside = slot >= view.lead && slot < view.end;
        u32 token = D::SIZE == 4 ? D::FILL : D::FILL & 0xffffu;
        if (inside && D::SIZE == 4) token = reinterpret_cast<const u32*>(view.base)[slot];
        if (inside && D::SIZE == 2) token = reinterpret_cast<const u16*>(view.base)[slot];
#pragma unroll
        for (u32 i = WORDS - 1; i > 0; i--) {
            const u32 before = share.words[i - 1];
            share.words[i] = D::SIZE == 4 ? before : share.words[i] << 16 | before >> 16;
        }
        share.words[0] = D::SIZE == 4 ? token : share.words[0] << 16 | token;
    }
    return share;
}

template <class D> DEVICE Share<D> read_share(const View& view, u32 tile, u32 lane) {
    const u32 first = tile * TILE + lane * SHARE;
    if (first >= view.lead && first + SHARE <= view.end) {
        return read_vectors<D>(reinterpret_cast<const uint4*>(view.base + static_cast<u64>(first) * D::SIZE));
    }
    return read_edge<D>(view, first);
}

template <class D> DEVICE void widen_share(const Share<D>& share, float (&x)[SHARE]) {
#pragma unroll
    for (u32 i = 0; i < SHARE; i++) x[i] = D::widen(share.words, i);
}

}  // namespace
}  // namespace logitd
