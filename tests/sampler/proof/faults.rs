//! Faults to plant in the kernels: mistakes that this arithmetic and this hardware invite.
//!
//! A fault is an edit of a copy of the sources. All are compiled into one program, each behind a number
//! that the program is given when it starts, so that many faults cost one compilation. An edit whose text
//! is not found, or found twice, fails the suite: whoever changes the kernels sees which fault has lost
//! its place.

use super::compile::Source;
use std::fmt::Write;

/// What a suite must say of a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The answers differ from the oracle's.
    Bits,
    /// The launch fails with a report that has these words.
    Report(&'static str),
    /// Either: the order of threads decides which comes first.
    Any,
    /// Either; and where a sanitizer looks on, it reports this.
    Stray(&'static str),
}
use Notice::{Any, Bits, Report, Stray};

/// One edit of the sources.
pub struct Fault {
    /// What it is, for reports.
    pub name: String,
    /// How it must be noticed.
    pub notice: Notice,
    path: String,
    place: usize,
    from: String,
    to: String,
}

/// What it is, the text it replaces, the text in its place, and how that is noticed. A text that ends with
/// a semicolon is a statement; any other is an expression.
type Edit = (&'static str, &'static str, &'static str, Notice);

/// Memory that is not the launch's.
const POISON: Notice = Stray("AddressSanitizer");
const UNCLEAN: Notice = Report("did not leave its memory as it found it");

const EDITS: &[(&str, &[Edit])] = &[
    (
        "adjust.cuh",
        &[
            (
                "a penalty is fused",
                "__fsub_rn(x, __fmul_rn(row->frequency, __uint2float_rn(touch.count)))",
                "__fmaf_rn(-row->frequency, __uint2float_rn(touch.count), x)",
                Bits,
            ),
            (
                "negative logits are divided",
                "x > 0.0f ? __fdiv_rn(x, row->repetition) : __fmul_rn(x, row->repetition)",
                "__fdiv_rn(x, row->repetition)",
                Bits,
            ),
            ("banned tokens stay", "(D::FILL & half)", "(share.words[i / 2] & half)", Bits),
            ("stop tokens are gone", "before >> 16 == 0 && found == 0", "false", Bits),
            ("what other blocks found is lost", "(found << 16)", "0u", Bits),
            ("logits beside the row", "i >= count", "i > count", POISON),
        ],
    ),
    (
        "chain.cuh",
        &[
            ("banned tokens deviate", "x[token] > NEGATIVE_INFINITY", "true", Bits),
            ("what one block says alone", "block < work.team.size", "block < 1", Any),
            ("exchanges in one place", "chain.turn++ % 2", "0u * chain.turn++", Any),
            (
                "both numbers in one place",
                "said[TEAM_BLOCKS_MAX + work.team.rank]",
                "said[work.team.rank]",
                Any,
            ),
            ("tokens before the first count", "x[token] > highest", "false", Bits),
            ("what equals the border is cut", "x[i] < lowest", "x[i] <= lowest", Any),
            ("ties are kept behind their last", "begin + i > chain.cut.id", "false", Any),
            (
                "likely ties go with their last",
                "begin + i < chain.first.id",
                "begin + i <= chain.first.id",
                Any,
            ),
            ("min-p is relative to the maximum", "top < work.max_key", "false", Bits),
            (
                "the mean is that of the first token",
                "token.g > mean ? token.g - mean : mean - token.g",
                "token.g",
                Bits,
            ),
            ("a distance is lost", "far < near.low", "far <= near.low", Any),
            (
                "nearer distances have no mass",
                "near.within + block_scan(sum, work.shared->partial, all)",
                "block_scan(sum, work.shared->partial, all)",
                Any,
            ),
            (
                "masses of distances without atomics",
                "atomicAdd(&histogram->weighed.mass[i], mass);",
                "const u64 m = histogram->weighed.mass[i]; spin_pause(); histogram->weighed.mass[i] = m + mass;",
                Any,
            ),
            ("distances are used again as they are", "clear_part(work, stale);", ";", Any),
            (
                "nothing is less surprising than the mean",
                "center > near.low ? center - near.low : 0",
                "center",
                Bits,
            ),
            ("the first likely one stays", "place > last", "last == 0", Any),
            ("a likely token behind one that is not counts", "last > end", "last > last", Any),
            (
                "the second tile of eight tokens is not looked at",
                "work.tile_keys[(slot + count - 1) / TILE]",
                "0u",
                Bits,
            ),
            (
                "a row that stays is not written",
                "to == row->logits && left == 0xffu",
                "left == 0xffu",
                Any,
            ),
            (
                "a block writes its first part alone",
                "begin += step",
                "begin += row->vocab_size",
                Any,
            ),
        ],
    ),
    (
        "cut.cuh",
        &[
            ("top-p rounds down", "(fraction * mass != 0)", "0", Bits),
            ("top-p asks for nothing", "target > 1 ? target : 1", "target", Any),
            (
                "min-p loses its border",
                "__fsub_rn(x, max) >= distance",
                "__fsub_rn(x, max) > distance",
                Any,
            ),
        ],
    ),
    (
        "deviation.cuh",
        &[
            ("what is far is not near", "fminf(fmaxf(x, -FAR), FAR)", "x", Bits),
            (
                "whole units are cut off",
                "static_cast<i32>(__float_as_uint(rounded) - ROUND_BITS)",
                "static_cast<i32>(fminf(fmaxf(x, -FAR), FAR) * UNITS)",
                Bits,
            ),
            ("sums of 64 bits", "__umul64hi(sums.squares, count)", "0ull", Bits),
            ("no borrow", "(scaled < squared)", "0", Bits),
            (
                "the sum is never below 0",
                "sums.sum < 0 ? -sums.sum : sums.sum",
                "sums.sum < 0 ? 1 : sums.sum",
                Bits,
            ),
            (
                "the deviation of a sample",
                "__uint2double_rn(count)",
                "__uint2double_rn(count - 1)",
                Bits,
            ),
        ],
    ),
    (
        "draw.cuh",
        &[(
            "the low half of the product",
            "__umul64hi(bits, kept_mass)",
            "bits * kept_mass % kept_mass",
            Bits,
        )],
    ),
    (
        "finish_list.cuh",
        &[
            ("top-p keeps one too many", "before < target", "before <= target", Bits),
            (
                "places in the list without atomics",
                "atomicAdd(listed, inclusive)",
                "base = *listed, spin_pause(), *listed = base + inclusive, base",
                Any,
            ),
            ("the list is not cut to k", "min(count, row->top_k)", "count", Bits),
            (
                "room for a tile of several",
                "count += static_cast<u32>(__popc(bits[i]));",
                "count = static_cast<u32>(__popc(bits[i]));",
                Any,
            ),
        ],
    ),
    (
        "histogram.cuh",
        &[
            (
                "16-bit counters",
                "atomicAdd(&shared.counts[bin], 1u);",
                "shared.counts[bin] = shared.counts[bin] + 1 & 0xffffu;",
                Any,
            ),
            (
                "counts of masses without atomics",
                "atomicAdd(&shared.weighed.count[bin], 1u);",
                "const u32 n = shared.weighed.count[bin]; spin_pause(); shared.weighed.count[bin] = n + 1;",
                Any,
            ),
            (
                "counts of the team without atomics",
                "atomicAdd(&row->counts[i], count);",
                "const u32 n = row->counts[i]; spin_pause(); row->counts[i] = n + count;",
                Any,
            ),
            (
                "masses of the team without atomics",
                "atomicAdd(&row->weighed.mass[i], mass);",
                "const u64 m = row->weighed.mass[i]; spin_pause(); row->weighed.mass[i] = m + mass;",
                Any,
            ),
            ("a floor with half the tiles", "there < k", "2 * there < k", Any),
            ("a lost carry", "(old + part < old)", "0", Any),
            ("the bin before", "from < goal", "from <= goal", Any),
            ("one tie too many", "static_cast<u32>(wanted) - 1", "static_cast<u32>(wanted)", Any),
            ("histograms are used again as they are", "clear_part(work, stale);", ";", Any),
        ],
    ),
    (
        "inspect.cuh",
        &[
            (
                "a token comes before itself",
                "list[middle] >> NAME_BITS > order",
                "list[middle] >> NAME_BITS >= order",
                Bits,
            ),
            (
                "ranks of the last block to come",
                "atomicAdd(&of.named[index].word, static_cast<u32>(before));",
                "of.named[index].word = static_cast<u32>(before);",
                Any,
            ),
            (
                "sums of the last block to come",
                "atomicAdd(&of.outcome->term[which], term);",
                "of.outcome->term[which] = term;",
                Any,
            ),
            (
                "kept ties end before their last",
                "id <= cut.id",
                "id < cut.id",
                Report("a bitmask of 0 tokens, of 1 that are kept"),
            ),
            ("a token of the row before", "token < work.row->vocab_size", "true", POISON),
        ],
    ),
    ("key.cuh", &[("two zeros", "bits == 0x80000000u", "false", Any)]),
    (
        "logits.cuh",
        &[
            (
                "one past the last vector",
                "first + SHARE <= view.end",
                "first + SHARE <= view.end + 1",
                POISON,
            ),
            ("one before the first vector", "first >= view.lead", "first + 1 >= view.lead", Bits),
            ("one past the last token", "slot < view.end", "slot <= view.end", POISON),
            ("one before the first token", "slot >= view.lead", "slot + 1 >= view.lead", POISON),
            ("the last tile is left out", "(view.end + TILE - 1) / TILE", "view.end / TILE", Any),
        ],
    ),
    (
        "mass.cuh",
        &[
            (
                "the exponent is not fused",
                "__fmaf_rn(d, scale.c, ROUND)",
                "__fadd_rn(__fmul_rn(d, scale.c), ROUND)",
                Bits,
            ),
            (
                "the remainder is not fused",
                "__fmaf_rn(d, scale.c, -n)",
                "__fsub_rn(__fmul_rn(d, scale.c), n)",
                Bits,
            ),
            (
                "a step of the polynomial is not fused",
                "__fmaf_rn(p, f, __uint_as_float(C1))",
                "__fadd_rn(__fmul_rn(p, f), __uint_as_float(C1))",
                Bits,
            ),
            (
                "the distance is not clamped",
                "fmaxf(__fsub_rn(x, max), scale.dmin)",
                "__fsub_rn(x, max)",
                Stray("shift exponent"),
            ),
        ],
    ),
    ("interval.cuh", &[("half the mean", "bit < 18", "bit < 17", Bits)]),
    (
        "philox.cuh",
        &[
            ("half of the position", "static_cast<u32>(position >> 32)", "0u", Bits),
            ("half of the seed", "static_cast<u32>(seed >> 32)", "0u", Bits),
            ("nine rounds", "round < 10", "round < 9", Bits),
        ],
    ),
    (
        "race.cuh",
        &[
            ("the noise of the other of a pair", "token & 1", "~token & 1", Bits),
            ("nothing is mirrored", "bits >> 63", "0", Bits),
            ("ties are not cut", "x > at || (x == at && index <= cut.id)", "x >= at", Bits),
            ("the first block's fastest alone", "block < work.team.size", "block < 1", Any),
        ],
    ),
    (
        "sample.cu",
        &[
            ("scratch memory is left dirty", "words[i] = make_uint4(0, 0, 0, 0);", ";", UNCLEAN),
            (
                "what was said is left",
                "thread_index() < sizeof(scratch->said) / sizeof(u64)",
                "false",
                UNCLEAN,
            ),
            ("counters are left", "scratch->control = {0, 0, {0, 0}};", ";", UNCLEAN),
        ],
    ),
    (
        "scan.cuh",
        &[
            (
                "the last of equal maxima",
                "static_cast<u64>(key) << 32 | ~tile",
                "static_cast<u64>(key) << 32 | (0x7fffffffu & tile)",
                Any,
            ),
            ("a NaN is not the maximum", "max_nan(highest, x[i])", "fmaxf(highest, x[i])", Bits),
            ("masked tokens are candidates", "lowest == NEGATIVE_INFINITY", "false", Any),
        ],
    ),
    (
        "surprisal.cuh",
        &[
            (
                "terms of truncated masses",
                "whole.mantissa * g >> shift",
                "(whole.mantissa >> shift) * g",
                Bits,
            ),
            ("terms end where masses do", "shift > SHIFT_MAX", "shift > 41", Any),
        ],
    ),
    (
        "team.cuh",
        &[
            (
                "a barrier that the last but one opens",
                "*static_cast<volatile u32*>(&control->arrived) < expected",
                "*static_cast<volatile u32*>(&control->arrived) + 1 < expected",
                Any,
            ),
            (
                "places by number, not by turn",
                "*place = atomicAdd(&control->ticket, 1u);",
                "{ *place = blockIdx.x; atomicAdd(&control->ticket, 1u); }",
                Report("without end"),
            ),
        ],
    ),
    (
        "tile_masses.cuh",
        &[
            ("ties are counted by key alone", "x == tie", "x >= tie", Bits),
            ("a draw stops at the second last", "at = i;", "at = i - 1;", Any),
            ("rows write over each other", "row->first_draw + draw", "draw", Any),
            ("a sign of zero", "__fadd_rn(logit, 0.0f)", "logit", Bits),
        ],
    ),
    (
        "work.cuh",
        &[
            (
                "ties are cut before their last",
                "first + i <= last_kept",
                "first + i < last_kept",
                Any,
            ),
            (
                "a block's last tile is left out",
                "work.view.tiles + work.team.size - 1 - work.team.rank",
                "work.view.tiles + work.team.size - 2 - work.team.rank",
                Any,
            ),
        ],
    ),
];

/// Every edit above, and every barrier that the kernels have, left out one by one.
pub fn all(sources: &[Source]) -> Vec<Fault> {
    let edits = EDITS.iter().flat_map(|(path, edits)| edits.iter().map(move |edit| (path, edit)));
    let edits = edits.map(|(path, (name, from, to, notice))| {
        let text = &sources.iter().find(|source| source.path == *path).expect(path).text;
        let mut found = text.match_indices(from);
        let (place, _) = found.next().unwrap_or_else(|| panic!("{path} has no {from:?} any more"));
        assert!(found.next().is_none(), "{path} has {from:?} twice");
        Fault {
            name: format!("{path}: {name}"),
            notice: *notice,
            path: (*path).into(),
            place,
            from: (*from).into(),
            to: (*to).into(),
        }
    });
    edits.chain(sources.iter().flat_map(barriers)).collect()
}

/// How barriers are called.
const BARRIERS: [&str; 5] = [
    "__syncthreads();",
    "__syncwarp();",
    "work.team.sync();",
    "cluster_sync();",
    "counter_sync();",
];

/// The barriers of one source of the kernels, each left out.
fn barriers(source: &Source) -> Vec<Fault> {
    let mut faults = Vec::new();
    let mut place = 0;
    for (line, text) in source.text.split_inclusive('\n').enumerate() {
        let statement = text.trim();
        if BARRIERS.contains(&statement) && !source.path.starts_with("host/") {
            faults.push(Fault {
                name: format!("{}:{}: no {statement}", source.path, line + 1),
                notice: Any,
                path: source.path.clone(),
                place: place + text.find(statement).expect("it is trimmed"),
                from: statement.into(),
                to: ";".into(),
            });
        }
        place += text.len();
    }
    faults
}

/// The sources with every fault in its place, and none at work until it is asked for: fault `i` of the list
/// is number `i + 1`.
pub fn plant(sources: &[Source], faults: &[Fault]) -> Vec<Source> {
    let mut planted = sources.to_vec();
    for source in &mut planted {
        let mut edits: Vec<(usize, &Fault)> =
            faults.iter().enumerate().filter(|(_, fault)| fault.path == source.path).collect();
        edits.sort_by_key(|(_, fault)| fault.place);
        let (mut text, mut end) = (String::new(), 0);
        for (index, Fault { place, from, to, name, .. }) in edits {
            assert!(*place >= end, "{name}: two faults in one place");
            text += &source.text[end..*place];
            let asked = format!("logitd_fault == {}", index + 1);
            if from.ends_with(';') {
                write!(text, "{{ if ({asked}) {{ {to} }} else {{ {from} }} }}")
            } else {
                write!(text, "({asked} ? ({to}) : ({from}))")
            }
            .expect("a string takes everything");
            end = place + from.len();
        }
        source.text = text + &source.text[end..];
        if source.path == "isa.cuh" {
            source.text.insert_str(0, "extern unsigned logitd_fault;\n");
        }
    }
    planted
}
