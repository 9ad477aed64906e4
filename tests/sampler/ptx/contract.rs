//! No floating-point operation in the PTX but those that the arithmetic names, each rounded as it says,
//! and no fused multiply-add but those written.
//!
//! It holds by construction. ptxas, which makes machine code of this PTX, may contract "mul/add sequences
//! with no rounding modifiers" (PTX ISA, `add`); here all have one. So what is fused is what is called
//! `fma`, and every one of those is found to be a line of `mass` in `kernels/mass.cuh`, of `exponential` in
//! `kernels/race.cuh`, of `surprisal` in `kernels/surprisal.cuh`, or of `z` in `kernels/deviation.cuh`. Products that are
//! rounded by themselves are for `logitd_adjust` alone, f64 for `logitd_cut`.

use super::driver::probe;
use super::nvcc::{CHIPS, FLAGS, Kernels, compile, kernels, nvcc_or_skip, sources};
use super::parse::{Entry, Instruction, Operand, Reg, parse};
use super::program::prepare;
use logitd_shim::Build;
use std::collections::HashMap;

/// What may be done with floating point.
const OPERATIONS: [&str; 14] = [
    "add.rn.f32",
    "sub.rn.f32",
    "div.rn.f32",
    "fma.rn.f32",
    "neg.f32",
    "abs.f32",
    "min.f32",
    "max.f32",
    "max.NaN.f32",
    "selp.f32",
    "cvt.f32.f16",
    "cvt.rn.f32.s32",
    "cvt.rn.f32.u32",
    "cvt.rn.f32.u64",
];

/// What top-n-sigma does in f64, once a row.
const OF_DEVIATIONS: [&str; 8] = [
    "mul.rn.f64",
    "div.rn.f64",
    "sqrt.rn.f64",
    "neg.f64",
    "cvt.rn.f64.u32",
    "cvt.rn.f64.u64",
    "cvt.f64.f32",
    "cvt.rn.f32.f64",
];

/// What the fused operations of `mass` add, in order: the rounding constant, the rounded part with its sign
/// changed (here as `None`), C5 to C1, and 1.
const ADDENDS: [Option<u64>; 8] = [
    Some(0x4b40_0000),
    None,
    Some(0x3aaf_9f2a),
    Some(0x3c1d_96a6),
    Some(0x3d63_5774),
    Some(0x3e75_fdee),
    Some(0x3f31_7218),
    Some(0x3f80_0000),
];

/// What the fused operations of `exponential` add between its first, whose factor is [`TO_UNIT`], and its last, which
/// adds a converted integer: K7 to K0.
const RACE_ADDENDS: [u64; 8] = [
    0xc015_8fd4,
    0x3fdb_f9a6,
    0xbe7f_2349,
    0x3ec1_2234,
    0x3eb4_409f,
    0x3ef6_6b68,
    0x3f38_a9e2,
    0x3fb8_aa3b,
];
/// 2^-32.
const TO_UNIT: u64 = 0x2f80_0000;
/// 2^22: what `surprisal` multiplies a fraction by.
const BIT: u64 = 0x4a80_0000;
/// 2^10: what `z` multiplies a logit by.
const UNITS: u64 = 0x4480_0000;

#[test]
fn nothing_is_fused_but_what_is_written() {
    let Some(nvcc) = nvcc_or_skip("nothing_is_fused_but_what_is_written") else { return };
    // From the last: other tests compile for the first ones meanwhile.
    for chip in CHIPS.into_iter().rev() {
        let kernels = kernels(nvcc, chip, Build::Shipped);
        let check = |name| {
            let masses = check_sampling(kernels.module.entry(name)?)?;
            println!("sm_{chip} {name}: fused multiply-adds of {masses} masses, and no others");
            Ok::<_, String>(masses)
        };
        let check = |name| check(name).unwrap_or_else(|e| panic!("sm_{chip} {name}: {e}"));
        assert!(check("logitd_sample_grid") > 0);
        assert_eq!(
            check("logitd_sample_cluster") > 0,
            chip >= 90,
            "clusters are for sm_90 and later"
        );
        let inspects =
            kernels.module.entry("logitd_inspect").and_then(|entry| check_kernel(entry, &[]));
        let Found { masses, surprisals, alone, deviations } =
            inspects.unwrap_or_else(|e| panic!("sm_{chip} logitd_inspect: {e}"));
        println!("sm_{chip} logitd_inspect: {masses} masses, {surprisals} surprisals");
        assert!(masses > 0 && surprisals == masses && (alone, deviations) == (0, 0));
        let adjusts = kernels.module.entry("logitd_adjust");
        let adjusts = adjusts.and_then(|entry| check_kernel(entry, &["mul.rn.f32"]));
        assert_eq!(adjusts, Ok(Found::default()), "sm_{chip} logitd_adjust");
        let cuts = kernels.module.entry("logitd_cut");
        let Found { masses, surprisals, alone, deviations } = cuts
            .and_then(|entry| check_kernel(entry, &OF_DEVIATIONS))
            .unwrap_or_else(|e| panic!("sm_{chip} logitd_cut: {e}"));
        println!(
            "sm_{chip} logitd_cut: {masses} masses, {surprisals} surprisals, {deviations} deviations"
        );
        assert!(masses > 0 && surprisals > alone && alone > 0 && deviations > 0);
        let probe = kernels.module.entry("logitd_probe").and_then(check_probe);
        assert_eq!(probe, Ok(()), "sm_{chip}");
    }
}

/// The checks above can fail: each liberty that a compiler takes when asked to is found, by the check and
/// by running what it made.
#[test]
fn liberties_are_found() {
    let Some(nvcc) = nvcc_or_skip("liberties_are_found") else { return };
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("probe.cu");
    std::fs::write(&source, probe_alone()).unwrap();
    let compile = |flag: &str, instead: &str| {
        let flags = FLAGS.map(|f| if f == flag { instead } else { f });
        compile(nvcc, &source, 75, &flags, &[]).unwrap()
    };
    let entry = |text: &str| parse(text).map(|mut module| module.entries.remove(0));
    let kept = entry(&compile("", "")).unwrap();
    assert_eq!(check_probe(&kept), Ok(()));
    assert_eq!(probe(&prepare(&kept).unwrap()), Ok(()));

    // Told that it may, nvcc leaves roundings open, for ptxas to contract what it has not.
    let contracted = compile("-fmad=false", "-fmad=true");
    let open = entry(&contracted).unwrap_err();
    assert!(open.contains("unknown instruction \"mul.f32\""), "{open}");
    let contracted = entry(&contracted.replace("mul.f32", "mul.rn.f32")).unwrap();
    assert!(check_probe(&contracted).unwrap_err().contains("\"fma.rn.f32\", \"fma.rn.f32\""));
    let verdict = probe(&prepare(&contracted).unwrap()).unwrap_err();
    assert!(verdict.contains("contracts a * b + c"), "{verdict}");

    let flushed = entry(&compile("-ftz=false", "-ftz=true")).unwrap_err();
    assert!(flushed.contains("unknown instruction") && flushed.contains(".ftz."), "{flushed}");
    let approximate = entry(&compile("-prec-div=true", "-prec-div=false")).unwrap_err();
    assert!(approximate.contains("unknown instruction \"div."), "{approximate}");
}

/// In the kernels too: an operation changed into another is named with its line.
#[test]
fn other_operations_are_found() {
    let Some(nvcc) = nvcc_or_skip("other_operations_are_found") else { return };
    let text = &kernels(nvcc, 75, Build::Shipped).text;
    let with = |what: &str, instead: &str| {
        let kernels = Kernels::read(text.replacen(what, instead, 1))?;
        check_sampling(kernels.module.entry("logitd_sample_grid")?)
    };
    assert!(with("", "").is_ok());
    for (what, instead) in [
        ("sub.rn.f32", "mul.rn.f32"),
        ("sub.rn.f32", "sub.f32"),
        ("sub.rn.f32", "sub.rz.f32"),
        ("fma.rn.f32", "fma.rn.ftz.f32"),
        ("fma.rn.f32", "fma.rz.f32"),
        ("fma.rn.f32", "mad.rn.f32"),
        ("neg.f32", "abs.f32"),
        ("0f3C1D96A6", "0f3C1D96A7"),
        ("0f3C1D96A6", "0f3D635774"),
        ("div.rn.f32", "div.full.f32"),
    ] {
        let error = with(what, instead).expect_err(instead);
        assert!(error.contains("line "), "{instead}: {error}");
    }
}

/// `logitd_probe` and what it includes.
fn probe_alone() -> String {
    let all = std::fs::read_to_string(sources().join("sample.cu")).expect("the kernels");
    let start = all.find("KERNEL logitd_probe").expect("the probe");
    let (abi, isa) = (r#"#include "abi.cuh""#, r#"#include "isa.cuh""#);
    format!("{abi}\n{isa}\nnamespace logitd {{\n{}", &all[start..])
}

/// How many times functions of the arithmetic stand in a kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Found {
    masses: usize,
    surprisals: usize,
    /// Surprisals without a mass.
    alone: usize,
    deviations: usize,
}

/// Checks a sampling kernel. How many times `mass` stands in it.
fn check_sampling(entry: &Entry) -> Result<usize, String> {
    match check_kernel(entry, &[])? {
        Found { masses, surprisals: 0, alone: 0, deviations: 0 } => Ok(masses),
        found => Err(format!("{found:?}: sampling has masses alone")),
    }
}

/// Checks a kernel that may do these operations too.
fn check_kernel(entry: &Entry, more_operations: &[&str]) -> Result<Found, String> {
    let at = |i: &Instruction, what: &str| format!("line {}: {what} {:?}", i.line, i.operands);
    let definitions = definitions(entry);
    let mut found = [0usize; ADDENDS.len()];
    let mut of_races = [0; RACE_ADDENDS.len() + 2];
    let (mut surprisals, mut deviations) = (0, 0);
    let allowed = |opcode: &str| OPERATIONS.contains(&opcode) || more_operations.contains(&opcode);
    for i in &entry.body {
        if is_float(&i.opcode) && !is_plain(&i.opcode) && !allowed(&i.opcode) {
            return Err(at(i, &format!("{} is none of the arithmetic's operations", i.opcode)));
        }
        if i.opcode.starts_with("fma") {
            if let Some(place) = race_place(i, &definitions) {
                of_races[place] += 1;
                continue;
            }
            if is_rounded_in_units(i, BIT, &definitions) {
                surprisals += 1;
                continue;
            }
            if is_rounded_in_units(i, UNITS, &definitions) {
                deviations += 1;
                continue;
            }
            let addend = addend(&i.operands[3], &definitions)
                .ok_or_else(|| at(i, "fuses what is not written as fused"))?;
            let line = ADDENDS.iter().position(|&known| known == addend);
            found[line.ok_or_else(|| at(i, "fuses with an unknown constant"))?] += 1;
        }
    }
    let line = entry.body.first().map_or(0, |i| i.line);
    if of_races.iter().any(|&count| count != of_races[0]) {
        return Err(format!("from line {line}: parts of `exponential`: {of_races:?}"));
    }
    // A surprisal of which the mass is not asked has no power.
    let [splits, .., masses] = found;
    let is_whole = found[1] == splits && found[2..].iter().all(|&count| count == masses);
    match is_whole && splits >= masses {
        true => Ok(Found { masses, surprisals, alone: splits - masses, deviations }),
        false => Err(format!("from line {line}: parts of `mass`: {found:?}")),
    }
}

/// Which line of `exponential` in `kernels/race.cuh` a fused operation is, if it is one.
fn race_place(fma: &Instruction, definitions: &HashMap<Reg, Vec<&Instruction>>) -> Option<usize> {
    let constant = |operand: &Operand| constant(operand, definitions);
    if fma.operands[1..3].iter().any(|factor| constant(factor) == Some(TO_UNIT)) {
        return Some(0);
    }
    if let Some(known) = constant(&fma.operands[3]) {
        let place = RACE_ADDENDS.iter().position(|&addend| addend == known)?;
        return Some(1 + place);
    }
    let Operand::Reg(reg) = &fma.operands[3] else { return None };
    is_converted(*reg, definitions, 4).then_some(1 + RACE_ADDENDS.len())
}

/// Whether a fused operation rounds a value in these units: that of `surprisal` in `kernels/surprisal.cuh`, and that of `z`
/// in `kernels/deviation.cuh`.
fn is_rounded_in_units(
    fma: &Instruction,
    units: u64,
    definitions: &HashMap<Reg, Vec<&Instruction>>,
) -> bool {
    let constant = |operand: &Operand| constant(operand, definitions);
    fma.operands[1..3].iter().any(|factor| constant(factor) == Some(units))
        && constant(&fma.operands[3]) == ADDENDS[0]
}

/// The constant that an operand is.
fn constant(operand: &Operand, definitions: &HashMap<Reg, Vec<&Instruction>>) -> Option<u64> {
    match operand {
        Operand::Immediate(bits) => Some(*bits),
        operand => addend(operand, definitions).flatten(),
    }
}

/// Whether a register is an integer as a float, wherever it comes from: converted, or 0, or one of these by up to so many
/// moves and selections.
fn is_converted(reg: Reg, definitions: &HashMap<Reg, Vec<&Instruction>>, moves: u32) -> bool {
    let operand = |operand: &Operand| match operand {
        Operand::Immediate(bits) => *bits == 0,
        Operand::Reg(of) => moves > 0 && is_converted(*of, definitions, moves - 1),
        _ => false,
    };
    definitions.get(&reg).is_some_and(|all| {
        all.iter().all(|i| match &*i.opcode {
            "cvt.rn.f32.u32" => true,
            "mov.f32" | "mov.b32" => operand(&i.operands[1]),
            "selp.f32" | "selp.b32" => i.operands[1..3].iter().all(operand),
            _ => false,
        })
    })
}

/// Checks `logitd_probe`, which has each operation once, and two products.
fn check_probe(entry: &Entry) -> Result<(), String> {
    let floats = entry.body.iter().map(|i| &*i.opcode).filter(|o| is_float(o) && !is_plain(o));
    let mut floats: Vec<&str> = floats.collect();
    floats.sort_unstable();
    match floats[..] == ["add.rn.f32", "div.rn.f32", "fma.rn.f32", "mul.rn.f32", "mul.rn.f32"] {
        true => Ok(()),
        false => Err(format!("the probe has {floats:?}")),
    }
}

/// Whether an instruction has a floating-point type or a modifier that only those have.
fn is_float(opcode: &str) -> bool {
    opcode.split('.').any(|part| {
        matches!(
            part,
            "f16" | "f16x2" | "bf16" | "bf16x2" | "tf32" | "f32" | "f64" | "ftz" | "approx"
        )
    })
}

/// Whether it moves or compares, which rounds nothing.
fn is_plain(opcode: &str) -> bool {
    let parts: Vec<&str> = opcode.split('.').collect();
    matches!(
        parts[..],
        ["mov", _] | ["ld" | "st", .., "f32"] | ["setp", _, "f32"] | ["setp", _, _, "f32"]
    ) && !parts.contains(&"ftz")
}

/// What is written to each register, by every instruction that does.
fn definitions(entry: &Entry) -> HashMap<Reg, Vec<&Instruction>> {
    let mut definitions: HashMap<Reg, Vec<&Instruction>> = HashMap::new();
    for i in &entry.body {
        if let Some(Operand::Reg(to)) = i.operands.first()
            && !i.opcode.starts_with("st.")
        {
            definitions.entry(*to).or_default().push(i);
        }
    }
    definitions
}

/// The constant that an operand is, or `None` within for the negation of a difference.
fn addend(operand: &Operand, definitions: &HashMap<Reg, Vec<&Instruction>>) -> Option<Option<u64>> {
    let reg = match operand {
        Operand::Immediate(bits) => return Some(Some(*bits)),
        Operand::Reg(reg) => reg,
        _ => return None,
    };
    let mut all = definitions.get(reg)?.iter().map(|i| match (&*i.opcode, &i.operands[1]) {
        ("mov.f32" | "mov.b32" | "mov.u32", Operand::Immediate(bits)) => Some(Some(*bits)),
        ("neg.f32", Operand::Reg(of)) => {
            let difference = definitions.get(of)?.iter().all(|i| i.opcode == "sub.rn.f32");
            difference.then_some(None)
        }
        _ => None,
    });
    let first = all.next()??;
    all.all(|other| other == Some(first)).then_some(first)
}
