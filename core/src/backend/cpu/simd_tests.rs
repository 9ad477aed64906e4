//! Every operation of every instruction set against the portable one, lane by lane, and the portable
//! ones where something else says what they should give.

use super::avx2::Avx2;
use super::avx512::Avx512;
use super::portable::Portable;
use super::simd::Simd;
use crate::arithmetic::philox::philox4x32_10;
use crate::backend::skipped::skipped;
use half::{bf16, f16};
use std::sync::atomic::AtomicU8;

/// Lanes of the inputs: whole vectors of every instruction set.
const N: usize = 64;
const ROUNDS: u64 = 200;

/// The random numbers of a round.
struct Random {
    round: u64,
    drawn: u32,
}

impl Random {
    fn bits(&mut self) -> u64 {
        self.drawn += 1;
        let counter = [self.round as u32, self.drawn, 0, 0];
        let [a, b, ..] = philox4x32_10(counter, [5, 5]).map(u64::from);
        a | b << 32
    }

    fn below(&mut self, n: u64) -> u64 {
        self.bits() % n
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1 << 24) as f32
    }
}

/// Operands for one round.
struct Inputs {
    /// Any floats but NaN.
    any: [Vec<f32>; 2],
    /// Floats whose products and sums are normal.
    near_one: [Vec<f32>; 3],
    /// 0 to 2^31, and what lies between integers.
    positive: Vec<f32>,
    /// Powers of two that a mass is scaled by, in the low bits of a float.
    exponents: Vec<f32>,
    words: [Vec<u32>; 2],
    small_words: Vec<u32>,
    bytes: Vec<u8>,
    halves: [Vec<u8>; 2],
    bits: u32,
}

impl Inputs {
    fn new(round: u64) -> Self {
        let mut random = Random { round, drawn: 0 };
        let edges = [0.0, -0.0, f32::MIN_POSITIVE, -1e-45, f32::MAX, f32::MIN, 1.0, -1.0];
        let edges: Vec<f32> = edges.into_iter().chain([f32::INFINITY, f32::NEG_INFINITY]).collect();
        let any = |random: &mut Random| match random.below(3) {
            0 => random.pick(&edges),
            _ => match f32::from_bits(random.bits() as u32) {
                x if x.is_nan() => 0.5,
                x => x,
            },
        };
        let near_one =
            |random: &mut Random| (0.5 + random.unit()) * random.pick(&[1.0, -1.0, 8.0, -100.0]);
        let positive = |random: &mut Random| {
            let power = f32::powi(2.0, random.below(31) as i32);
            let any = power * random.unit();
            random.pick(&[0.0, 0.999, 1.0, power, power.next_down(), any])
        };
        let exponent = |random: &mut Random| 12_582_912.0 - random.below(63) as f32;
        let word = |random: &mut Random| {
            let any = random.bits() as u32;
            random.pick(&[0, 1, u32::MAX, 0x7fff_ffff, 0x8000_0000, any, any, any])
        };
        let byte = |random: &mut Random| random.bits() as u8;
        let half = |random: &mut Random| {
            let any = random.bits() as u16;
            random.pick(&[0, 1, 0xffff, 0x7fff, 0x8000, 0x7c00, 0xfc00, any, any, any])
        };
        let mut halves =
            || -> Vec<u8> { (0..2 * N).flat_map(|_| half(&mut random).to_le_bytes()).collect() };
        let halves = [halves(), halves()];
        let mut floats = |one: &dyn Fn(&mut Random) -> f32| -> Vec<f32> {
            (0..N).map(|_| one(&mut random)).collect()
        };
        let any = [floats(&any), floats(&any)];
        let near_one = [floats(&near_one), floats(&near_one), floats(&near_one)];
        let (positive, exponents) = (floats(&positive), floats(&exponent));
        let words = [0, 1].map(|_| (0..N).map(|_| word(&mut random)).collect());
        let small_words = (0..N).map(|_| random.below((1 << 24) + 1) as u32).collect();
        let bytes = (0..4 * N + 1).map(|_| byte(&mut random)).collect();
        let bits = random.bits() as u32;
        Self { any, near_one, positive, exponents, words, small_words, bytes, halves, bits }
    }
}

/// The results of every operation, by name, as bits: those of all vectors one after another.
fn results<S: Simd>(s: S, inputs: &Inputs) -> Vec<(&'static str, Vec<u64>)> {
    let Inputs { any, near_one, positive, exponents, words, small_words, bytes, halves, bits } =
        inputs;
    let starts = || (0..N).step_by(S::LANES);
    let lanes = u32::MAX >> (32 - S::LANES);
    let some_bits = |i: usize| bits.rotate_right(i as u32) & lanes;
    let floats = |one: &dyn Fn(usize) -> S::F| -> Vec<u64> {
        let mut out = [0.0; 16];
        let each = starts().flat_map(|i| {
            s.store(one(i), &mut out);
            out[..S::LANES].to_vec()
        });
        // What a NaN has besides being one differs.
        each.map(|x| if x.is_nan() { f32::NAN } else { x }.to_bits().into()).collect()
    };
    let ints = |one: &dyn Fn(usize) -> S::I| -> Vec<u64> {
        let mut out = [0; 16];
        let each = starts().flat_map(|i| {
            s.store_u32(one(i), &mut out);
            out[..S::LANES].to_vec()
        });
        each.map(u64::from).collect()
    };
    let masks = |count: usize, one: &dyn Fn(usize) -> u32| -> Vec<u64> {
        let each = starts().flat_map(|i| {
            let bits = one(i);
            (0..count).map(move |lane| u64::from(bits >> lane & 1))
        });
        each.collect()
    };
    // Of 16-bit lanes, twice as many a vector.
    let shorts = |one: &dyn Fn(usize) -> S::H| -> Vec<u64> {
        let all = starts().flat_map(|i| {
            let mut out = [0; 64];
            s.compress_bits16(u32::MAX >> (32 - 2 * S::LANES), one(i), &mut out);
            out[..4 * S::LANES].to_vec()
        });
        all.map(u64::from).collect()
    };
    let f = |x: &[f32], i: usize| s.load(&x[i..]);
    let w = |x: &[u32], i: usize| s.load_u32(&x[i..]);
    let h = |x: &[u8], i: usize| s.load_bits16(&x[4 * i..]);
    let pair = |i: usize| (f(&any[0], i), f(&any[1], i));
    let three = |i: usize| (f(&near_one[0], i), f(&near_one[1], i), f(&near_one[2], i));
    // Sums and products of infinities are NaN, of any sign: only normal ones are compared.
    let two = |i: usize| (f(&near_one[0], i), f(&near_one[1], i));
    let m = |i: usize| s.mask(some_bits(i));
    let last = N - S::LANES;
    let squeezed = |size: usize, write: &dyn Fn(usize, u32, &mut [u8])| -> Vec<u64> {
        let per_vector = S::LANES * 4 / size;
        let mask = u32::MAX >> (32 - per_vector);
        let all = starts().flat_map(|i| {
            let bits = bits.rotate_right((i * 4 / size) as u32) & mask;
            let mut out = [0; 64];
            write(i, bits, &mut out);
            out[..bits.count_ones() as usize * size].to_vec()
        });
        all.map(u64::from).collect()
    };
    vec![
        ("splat", floats(&|_| s.splat(any[0][3]))),
        ("load", floats(&|i| f(&any[0], i))),
        ("load_f16", floats(&|i| s.load_f16(&halves[0][2 * i..]))),
        ("load_bf16", floats(&|i| s.load_bf16(&halves[0][2 * i..]))),
        ("load_f32", floats(&|i| s.load_f32(&bytes[4 * i + 1..]))),
        ("add_floats", floats(&|i| s.add_floats(two(i).0, two(i).1))),
        ("sub", floats(&|i| s.sub(two(i).0, two(i).1))),
        ("mul", floats(&|i| s.mul(two(i).0, two(i).1))),
        ("max", floats(&|i| s.max(two(i).0, two(i).1))),
        ("fma", floats(&|i| s.fma(three(i).0, three(i).1, three(i).2))),
        ("fms", floats(&|i| s.fms(three(i).0, three(i).1, three(i).2))),
        ("scale", floats(&|i| s.scale(f(positive, i), f(exponents, i)))),
        ("truncate", ints(&|i| s.truncate(f(positive, i)))),
        ("float", floats(&|i| s.float(w(small_words, i)))),
        ("ge", masks(S::LANES, &|i| s.bits(s.ge(pair(i).0, pair(i).1)))),
        ("mask", masks(S::LANES, &|i| s.bits(m(i)))),
        ("keep", ints(&|i| s.keep(s.ge(pair(i).0, pair(i).1), w(&words[0], i)))),
        ("keep_floats", floats(&|i| s.keep_floats(s.ge(pair(i).0, pair(i).1), pair(i).1))),
        ("blend", floats(&|i| s.blend(m(i), pair(i).0, pair(i).1))),
        ("store_f32", {
            let copy = |i| {
                let mut copy = [0; 64];
                s.store_f32(f(&any[0], i), &mut copy);
                s.load_f32(&copy)
            };
            floats(&copy)
        }),
        ("splat_u32", ints(&|_| s.splat_u32(words[0][5]))),
        ("iota", ints(&|i| s.add(s.iota(), s.splat_u32(i as u32)))),
        ("copy_shared", {
            let shared: Vec<AtomicU8> = bytes.iter().copied().map(AtomicU8::new).collect();
            let copy = |i| {
                let mut copy = [0; 64];
                s.copy_shared(&shared[4 * i + 1..], &mut copy);
                s.load_bits32(&copy)
            };
            ints(&copy)
        }),
        ("load_bits32", ints(&|i| s.load_bits32(&bytes[4 * i + 1..]))),
        ("as_floats", floats(&|i| s.as_floats(w(&words[0], i)))),
        ("as_ints", ints(&|i| s.as_ints(f(&any[0], i)))),
        ("add", ints(&|i| s.add(w(&words[0], i), w(&words[1], i)))),
        ("sub_u32", ints(&|i| s.sub_u32(w(&words[0], i), w(&words[1], i)))),
        ("xor", ints(&|i| s.xor(w(&words[0], i), w(&words[1], i)))),
        ("and", ints(&|i| s.and(w(&words[0], i), w(&words[1], i)))),
        ("shift_right", ints(&|i| s.shift_right::<9>(w(&words[0], i)))),
        ("shift_left", ints(&|i| s.shift_left::<3>(w(&words[0], i)))),
        ("mul_even", ints(&|i| s.mul_even(w(&words[0], i), w(&words[1], i)))),
        ("odd_lanes", ints(&|i| s.odd_lanes(w(&words[0], i)))),
        ("join_even", ints(&|i| s.join_even(w(&words[0], i), w(&words[1], i)))),
        ("interleave", {
            let mut out = [0; 32];
            let each = starts().flat_map(|i| {
                let (first, second) = s.interleave(w(&words[0], i), w(&words[1], i));
                s.store_u32(first, &mut out);
                s.store_u32(second, &mut out[S::LANES..]);
                out[..2 * S::LANES].to_vec()
            });
            each.map(u64::from).collect()
        }),
        ("max_i32", ints(&|i| s.max_i32(w(&words[0], i), w(&words[1], i)))),
        ("min_u32", ints(&|i| s.min_u32(w(&words[0], i), w(&words[1], i)))),
        (
            "at_most_u32",
            starts()
                .flat_map(|i| {
                    let (a, b) = (w(&words[0], i), w(&words[1], i));
                    let bits = [s.at_most_u32(a, b), s.at_most_u32(a, a), s.at_most_u32(b, a)];
                    (0..S::LANES).flat_map(move |lane| bits.map(|bits| u64::from(bits >> lane & 1)))
                })
                .collect(),
        ),
        ("max_u32", ints(&|i| s.max_u32(w(&words[0], i), w(&words[1], i)))),
        ("first_key32", vec![first_key32(s, &words[0])]),
        ("first_key32, negative", {
            let negative: Vec<u32> = words[0].iter().map(|x| x | 0x8000_0000).collect();
            vec![first_key32(s, &negative)]
        }),
        ("reduce_max_u32", {
            let each = starts().map(|i| s.reduce_max_u32(w(&words[0], i)));
            vec![u64::from(each.max().expect("a vector"))]
        }),
        ("load_bits16", shorts(&|i| h(&halves[0], i))),
        ("splat_u16", shorts(&|_| s.splat_u16(words[0][0] as u16))),
        ("blend16", {
            let some_bits = |i: usize| bits.rotate_right(2 * i as u32);
            shorts(&|i| s.blend16(some_bits(i), h(&halves[0], i), h(&halves[1], i)))
        }),
        ("store16", {
            let copy = |i| {
                let mut copy = [0; 64];
                s.store16(h(&halves[0], i), &mut copy);
                s.load_bits16(&copy)
            };
            shorts(&copy)
        }),
        ("lower_halves", shorts(&|i| s.lower_halves(w(&words[0], i), w(&words[1], i)))),
        ("add_pairs", ints(&|i| s.add_pairs(w(&words[0], i), h(&halves[0], i)))),
        ("add_squares", ints(&|i| s.add_squares(w(&words[0], i), h(&halves[0], i)))),
        ("max_i16", shorts(&|i| s.max_i16(h(&halves[0], i), h(&halves[1], i)))),
        ("min_u16", shorts(&|i| s.min_u16(h(&halves[0], i), h(&halves[1], i)))),
        ("max_u16", shorts(&|i| s.max_u16(h(&halves[0], i), h(&halves[1], i)))),
        ("first_key16", vec![first_key16(s, &halves[0])]),
        ("first_key16, negative", {
            let flip = |(i, byte): (usize, &u8)| byte | if i % 2 == 1 { 0x80 } else { 0 };
            let negative: Vec<u8> = halves[0].iter().enumerate().map(flip).collect();
            vec![first_key16(s, &negative)]
        }),
        ("reduce_max_u16", {
            let each = starts().map(|i| s.reduce_max_u16(h(&halves[0], i)));
            vec![u64::from(each.max().expect("a vector"))]
        }),
        ("gt_i16", {
            let gt = |i, flip, bound| s.gt_i16(h(&halves[0], i), s.splat_u16(flip), bound);
            let plain = masks(2 * S::LANES, &|i| gt(i, 0, h(&halves[1], i)));
            let flipped = masks(2 * S::LANES, &|i| gt(i, 0x7fff, h(&halves[1], i)));
            [plain, flipped].concat()
        }),
        ("total", {
            let sum = starts().fold(s.no_sum(), |sum, i| s.widen_add(sum, w(&words[0], i)));
            vec![s.total(sum)]
        }),
        ("add_products", {
            let shifts: Vec<u32> = small_words.iter().map(|word| word % 64).collect();
            let product =
                |sum, i| s.add_products(sum, w(&words[0], i), w(&words[1], i), w(&shifts, i));
            vec![s.total(starts().fold(s.no_sum(), product))]
        }),
        ("compress", {
            let write = |i: usize, bits, out: &mut [u8]| {
                let mut floats = [0.0; 16];
                s.compress(bits, f(&any[0], i), &mut floats);
                out.chunks_exact_mut(4)
                    .zip(floats)
                    .for_each(|(o, x)| o.copy_from_slice(&x.to_le_bytes()));
            };
            squeezed(4, &write)
        }),
        ("compress_u32", {
            let write = |i: usize, bits, out: &mut [u8]| {
                let mut ints = [0; 16];
                s.compress_u32(bits, w(&words[0], i), &mut ints);
                out.chunks_exact_mut(4)
                    .zip(ints)
                    .for_each(|(o, x)| o.copy_from_slice(&x.to_le_bytes()));
            };
            squeezed(4, &write)
        }),
        ("compress_bits16", {
            squeezed(2, &|i, bits, out| s.compress_bits16(bits, h(&halves[0], i), out))
        }),
        ("compress_bits32", {
            squeezed(4, &|i, bits, out| s.compress_bits32(bits, w(&words[0], i), out))
        }),
        ("store, last", {
            let mut out = vec![0.5; S::LANES];
            s.store(f(&any[1], last), &mut out);
            let end = out[S::LANES - 1];
            vec![u64::from(end.to_bits())]
        }),
    ]
}

fn first_key32<S: Simd>(s: S, words: &[u32]) -> u64 {
    let keys = words.chunks_exact(S::LANES).map(|words| {
        let words = s.load_u32(words);
        s.first_key32(words, words)
    });
    keys.max().expect("a vector") as u64
}

fn first_key16<S: Simd>(s: S, halves: &[u8]) -> u64 {
    let keys = halves.chunks_exact(4 * S::LANES).map(|halves| {
        let halves = s.load_bits16(halves);
        s.first_key16(halves, halves)
    });
    keys.max().expect("a vector") as u64
}

/// Why instructions are not compared.
const MISSING: &str = "this machine does not have it";

fn compare<S: Simd>(name: &str, s: Option<S>) {
    let Some(s) = s else { return skipped(name, MISSING) };
    for round in 0..ROUNDS {
        let inputs = Inputs::new(round);
        for (got, expected) in results(s, &inputs).into_iter().zip(results(Portable, &inputs)) {
            assert_eq!(got, expected, "{name}, round {round}");
        }
    }
}

#[test]
fn avx2_is_as_portable() {
    compare("avx2", Avx2::new());
}

#[test]
fn avx512_is_as_portable() {
    compare("avx512", Avx512::new());
}

#[test]
fn every_stored_logit_is_widened_exactly() {
    for bits in 0..=u16::MAX {
        let bytes = [bits.to_le_bytes(); 8].concat();
        let (f16, bf16) = (f16::from_bits(bits).to_f32(), bf16::from_bits(bits).to_f32());
        for (got, expected) in
            [(Portable.load_f16(&bytes)[7], f16), (Portable.load_bf16(&bytes)[0], bf16)]
        {
            let same = got.to_bits() == expected.to_bits();
            assert!(same || got.is_nan() && expected.is_nan(), "{bits:#06x}: {got} {expected}");
        }
    }
}

#[test]
fn portable_floats_are_those_of_the_machine() {
    for round in 0..ROUNDS {
        let Inputs { near_one: [a, b, c], positive, .. } = Inputs::new(round);
        let fused = Portable.fma(Portable.load(&a), Portable.load(&b), Portable.load(&c));
        let whole = Portable.truncate(Portable.load(&positive));
        for i in 0..Portable::LANES {
            assert_eq!(fused[i].to_bits(), a[i].mul_add(b[i], c[i]).to_bits());
            assert_eq!(whole[i], positive[i] as u32);
        }
    }
}

#[test]
fn short_slices_are_refused() {
    fn refuses<S: Simd>(s: Option<S>) {
        let Some(s) = s else { return skipped("short slices", MISSING) };
        let short = vec![0u8; S::LANES * 4 - 1];
        let refused =
            |work: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err();
        assert!(refused(&|| _ = s.load_bits16(&short)));
        assert!(refused(&|| _ = s.load_f16(&short[..S::LANES * 2 - 1])));
        assert!(refused(&|| _ = s.load(&vec![0.0; S::LANES - 1])));
        assert!(refused(&|| s.store(s.splat(0.0), &mut vec![0.0; S::LANES - 1])));
        assert!(refused(&|| s.store16(s.splat_u16(0), &mut vec![0; S::LANES * 4 - 1])));
        assert!(refused(&|| s.store_f32(s.splat(0.0), &mut vec![0; S::LANES * 4 - 1])));
        let all = u32::MAX >> (32 - S::LANES);
        assert!(refused(&|| s.compress_u32(all, s.iota(), &mut vec![0; S::LANES - 1])));
    }
    refuses(Some(Portable));
    refuses(Avx2::new());
    refuses(Avx512::new());
}
