//! `docs/arithmetic.md` says what is computed: its tables of constants, known answers, parameters and profiles.
//!
//! The known answers in its blocks of JSON are held to every backend by `tests/service/cli/vectors.rs`.

use logitd_core::arithmetic::fraction::{q64, share};
use logitd_core::arithmetic::key::key32;
use logitd_core::arithmetic::mass::C;
use logitd_core::arithmetic::philox::{philox4x32_10, token_bits};
use logitd_core::arithmetic::race::K;
use logitd_core::arithmetic::stages::{Profile, Stage};
use logitd_core::params::FIELDS;

fn page() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/arithmetic.md");
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// The rows of the table whose first line begins like this, that line first.
fn table(begins: &str) -> Vec<Vec<String>> {
    let page = page();
    let lines = page.lines().skip_while(|line| !line.starts_with(begins));
    let cells = |line: &str| -> Vec<String> {
        let cells = line.trim_matches('|').split('|');
        cells.map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    };
    let rows = lines.take_while(|line| line.starts_with('|'));
    let rows: Vec<_> = rows.filter(|line| !line.starts_with("|---")).map(cells).collect();
    assert!(rows.len() > 1, "the table that begins {begins}");
    rows
}

fn hex32(text: &str) -> u32 {
    u32::from_str_radix(text, 16).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn words(text: &str) -> Vec<u32> {
    text.split(' ').map(hex32).collect()
}

fn patterns(constants: &[f32]) -> Vec<String> {
    constants.iter().map(|x| format!("{:08x}", x.to_bits())).collect()
}

#[test]
fn its_constants_are_those_of_the_code() {
    assert_eq!(table("| | C1 |")[1][1..], patterns(&C));
    assert_eq!(table("| K0 |")[1], patterns(&K));
}

#[test]
fn its_logarithms_keys_and_shares_are_computed() {
    let logarithms = table("| x |");
    for (x, expected) in logarithms[0].iter().zip(&logarithms[1]).skip(1) {
        let x = f64::from_bits(u64::from_str_radix(x, 16).unwrap());
        assert_eq!(format!("{:016x}", libm::log(x).to_bits()), *expected, "ln {x:e}");
    }
    let keys = table("| pattern (f32) |");
    for (bits, expected) in keys[0].iter().zip(&keys[1]).skip(1) {
        assert_eq!(key32(f32::from_bits(hex32(bits))), hex32(expected), "the key of {bits}");
    }
    for row in &table("| p (f32) |")[1..] {
        let (p, mass): (f32, u64) = (row[0].parse().unwrap(), row[1].parse().unwrap());
        assert_eq!(share(q64(p), mass).to_string(), row[2], "{row:?}");
    }
}

#[test]
fn its_random_bits_are_those_of_the_generator() {
    for row in &table("| counter |")[1..] {
        let (counter, key) = (words(&row[0]), words(&row[1]));
        let out = philox4x32_10(counter.try_into().unwrap(), key.try_into().unwrap());
        assert_eq!(out.to_vec(), words(&row[2]), "{row:?}");
    }
    for row in &table("| seed | position |")[1..] {
        let [seed, position, draw, expected] = [0, 1, 2, 3].map(|i| row[i].parse::<u64>().unwrap());
        assert_eq!(token_bits(seed, position, draw as u32), expected, "{row:?}");
    }
}

#[test]
fn it_names_every_parameter() {
    let table = table("| parameter |");
    let cells: Vec<&str> = table.iter().map(|row| row[0].as_str()).collect();
    let cells = cells.join(" ");
    let names: Vec<&str> = cells.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for field in &FIELDS {
        assert!(names.contains(&field.name), "{}", field.name);
    }
}

#[test]
fn its_chains_are_those_of_the_profiles() {
    let profiles = table("| profile |");
    for profile in Profile::ALL {
        let begins = format!("{}`", profile.name());
        let row =
            profiles.iter().find(|row| row[0] == profile.name() || row[0].starts_with(&begins));
        let said = &row.unwrap_or_else(|| panic!("no row of {begins}"))[1];
        let named = |stage: &Stage| match profile.keeps_ties(*stage) {
            true => format!("{}\\*", name(*stage)),
            false => name(*stage).to_owned(),
        };
        let chain: Vec<String> = profile.stages().iter().map(named).collect();
        let said = said.split(';').next().unwrap_or_default().replace('`', "");
        assert_eq!(said, chain.join(", "), "{}", profile.name());
    }
}

fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::TopNSigma => "top_n_sigma",
        Stage::TopK => "top_k",
        Stage::TopP => "top_p",
        Stage::MinP => "min_p",
        Stage::TopH => "top_h",
        Stage::TopA => "top_a",
        Stage::Epsilon => "epsilon_cutoff",
        Stage::Eta => "eta_cutoff",
        Stage::Typical => "typical_p",
        Stage::Mirostat => "mirostat",
        Stage::Xtc => "XTC",
    }
}
