//! What requests look like: rows a request as a distribution, and parameters to choose from.

use super::random::{below, bits, unit};
use logitd_core::params::{Field, ParamsError, Value};
use logitd_core::verify::Mode;
use std::fmt;
use std::str::FromStr;

/// The values of one parameter, of which each row takes one.
#[derive(Clone, Debug)]
pub struct Choices {
    /// The parameter.
    pub field: &'static Field,
    /// One or more.
    pub values: Vec<Value>,
}

impl Choices {
    /// Reads values with commas between them.
    ///
    /// # Panics
    /// If there is no parameter of that name.
    pub fn read(name: &str, values: &str) -> Result<Self, ParamsError> {
        let field = Field::named(name).expect("the name of a parameter");
        let values = values.split(',').map(|text| field.read(text)).collect::<Result<_, _>>()?;
        Ok(Self { field, values })
    }
}

/// Which method is called, and what its requests have beside rows.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Method {
    /// `Sample`: rows.
    #[default]
    Sample,
    /// `Verify`: sequences with drafts.
    Verify(Drafting),
    /// `BeamStep`: groups of so many beams.
    BeamStep(u32),
}

/// What was drafted for sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct Drafting {
    /// Drafts a sequence.
    pub drafts: RowsDistribution,
    /// How they are compared with the rows.
    pub mode: Mode,
    /// What a request says of what they were drawn from.
    pub from: DraftsFrom,
}

/// What a request says of what its drafts were drawn from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DraftsFrom {
    /// Nothing: they were drafted without chance.
    #[default]
    Point,
    /// Weights of a few tokens.
    Sparse,
    /// A probability a token.
    Dense,
    /// A row of logits, which is the target's own, so that no bytes are added.
    Logits,
}

impl DraftsFrom {
    /// Its name in flags.
    pub fn name(self) -> &'static str {
        match self {
            Self::Point => "none",
            Self::Sparse => "sparse",
            Self::Dense => "dense",
            Self::Logits => "logits",
        }
    }
}

impl Method {
    /// The most rows of a sequence or a group, and of a request of `Sample` of each of its rows: 1.
    pub fn rows_each_max(&self) -> u32 {
        match self {
            Self::Sample => 1,
            Self::Verify(drafting) => drafting.drafts.rows_max() + 1,
            Self::BeamStep(beams) => *beams,
        }
    }

    /// The same with the rows that drafts were drawn from, as a server counts them.
    pub fn counted_each_max(&self) -> u32 {
        match self {
            Self::Verify(Drafting { drafts, from: DraftsFrom::Logits, .. }) => {
                2 * drafts.rows_max() + 1
            }
            other => other.rows_each_max(),
        }
    }
}

/// How many rows, sequences or groups a request has, or how many drafts a sequence: a distribution.
///
/// Written as `8`, `1..64` (uniform, both ends included), `1:70,8:20,16..64:10` (weights), or
/// `geometric:4..64` (mean 4; what is above 64 becomes 64).
#[derive(Clone, Debug, PartialEq)]
pub enum RowsDistribution {
    /// Ranges with weights; uniform inside a range.
    Weighted(Vec<Weighted>),
    /// Many small requests and few large ones.
    Geometric {
        /// Mean before the cut, 1 or more.
        mean: f64,
        /// The most rows.
        rows_max: u32,
    },
}

/// One range of a distribution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weighted {
    low: u32,
    high: u32,
    weight: f64,
}

/// The most rows that a request is made of here. A server has its own, lower limit.
pub const ROWS_MAX: u32 = 1 << 20;

impl RowsDistribution {
    /// Always so many: 1 or more.
    pub fn always(rows: u32) -> Self {
        Self::Weighted(vec![Weighted { low: rows, high: rows, weight: 1.0 }])
    }

    /// The number of rows of request `index`.
    pub fn rows(&self, seed: u64, index: u64) -> u32 {
        let (choice, place) = (bits(seed, index, 0), bits(seed, index, 1));
        match self {
            Self::Weighted(parts) => {
                let total: f64 = parts.iter().map(|part| part.weight).sum();
                let mut left = unit(choice) * total;
                let part = parts.iter().find(|part| {
                    left -= part.weight;
                    left <= 0.0
                });
                // Rounding can leave a crumb behind the last part.
                let part = part.unwrap_or_else(|| parts.last().expect("one part or more"));
                part.low + below(place, u64::from(part.high - part.low) + 1) as u32
            }
            Self::Geometric { mean, rows_max } if *mean > 1.0 => {
                let more = libm::log(unit(choice)) / libm::log(1.0 - 1.0 / mean);
                (1.0 + more).min(f64::from(*rows_max)) as u32
            }
            Self::Geometric { .. } => 1,
        }
    }

    /// The most rows a request can have.
    pub fn rows_max(&self) -> u32 {
        match self {
            Self::Weighted(parts) => parts.iter().map(|part| part.high).max().unwrap_or(1),
            Self::Geometric { rows_max, .. } => *rows_max,
        }
    }
}

impl FromStr for RowsDistribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(rest) = text.strip_prefix("geometric:") {
            let (mean, rows_max) = rest
                .split_once("..")
                .ok_or_else(|| format!("{text:?} lacks its largest; write geometric:MEAN..MAX"))?;
            let mean: f64 = mean.parse().map_err(|_| format!("{mean:?} is no mean"))?;
            let rows_max = rows(rows_max)?;
            if !(1.0..=f64::from(rows_max)).contains(&mean) {
                return Err(format!("a mean of {mean}; allowed: 1 to the largest, {rows_max}"));
            }
            return Ok(Self::Geometric { mean, rows_max });
        }
        text.split(',').map(Weighted::from_str).collect::<Result<_, _>>().map(Self::Weighted)
    }
}

impl FromStr for Weighted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (range, weight) = text.split_once(':').unwrap_or((text, "1"));
        let (low, high) = range.split_once("..").unwrap_or((range, range));
        let (low, high) = (rows(low)?, rows(high)?);
        let weight: f64 = weight.parse().map_err(|_| {
            format!(
                "{weight:?} is no weight; write a number above 0 behind the colon, as in 1:70,8:20"
            )
        })?;
        if low > high {
            return Err(format!("{range} is empty; write the smaller number first"));
        }
        if !(weight > 0.0 && weight.is_finite()) {
            return Err(format!("a weight is {weight}; allowed: above 0"));
        }
        Ok(Self { low, high, weight })
    }
}

impl fmt::Display for RowsDistribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Geometric { mean, rows_max } => write!(f, "geometric:{mean}..{rows_max}"),
            Self::Weighted(parts) => {
                for (i, Weighted { low, high, weight }) in parts.iter().enumerate() {
                    f.write_str(if i > 0 { "," } else { "" })?;
                    write!(f, "{low}")?;
                    if high > low {
                        write!(f, "..{high}")?;
                    }
                    if parts.len() > 1 {
                        write!(f, ":{weight}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

fn rows(text: &str) -> Result<u32, String> {
    let error = || format!("{text:?}; allowed: 1 to {ROWS_MAX}");
    text.parse().ok().filter(|n| (1..=ROWS_MAX).contains(n)).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> RowsDistribution {
        text.parse().unwrap()
    }

    /// How often each number of rows comes up in 10,000 requests.
    fn counts(text: &str) -> Vec<usize> {
        let distribution = parse(text);
        let mut counts = vec![0; distribution.rows_max() as usize + 1];
        (0..10_000).for_each(|i| counts[distribution.rows(7, i) as usize] += 1);
        counts
    }

    #[test]
    fn one_number_is_always_that_number() {
        assert_eq!(counts("8")[8], 10_000);
        assert_eq!(counts("geometric:1..1")[1], 10_000);
    }

    #[test]
    fn a_range_is_uniform_and_has_both_ends() {
        let counts = counts("1..4");
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|&n| n.abs_diff(2500) < 250), "{counts:?}");
    }

    #[test]
    fn weights_are_shares() {
        let counts = counts("1:70,8:20,64:10");
        for (rows, share) in [(1, 7000usize), (8, 2000), (64, 1000)] {
            assert!(counts[rows].abs_diff(share) < 250, "{rows}: {}", counts[rows]);
        }
        assert_eq!(counts.iter().sum::<usize>(), counts[1] + counts[8] + counts[64]);
    }

    #[test]
    fn a_geometric_distribution_has_its_mean_and_its_end() {
        let counts = counts("geometric:4..64");
        let rows: usize = counts.iter().enumerate().map(|(rows, n)| rows * n).sum();
        assert!(rows.abs_diff(40_000) < 2000, "{rows}");
        assert!(counts[1] > counts[2] && counts[2] > counts[4] && counts[4] > counts[16]);
        let cut = self::counts("geometric:4..5");
        assert!(cut[5] > cut[4], "what is above 5 becomes 5: {cut:?}");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_value() {
        for (text, part) in [
            ("0", "\"0\""),
            ("", "\"\""),
            ("4..1", "smaller number first"),
            ("1:0", "a weight is 0; allowed: above 0"),
            ("1:x", "\"x\""),
            ("1,,2", "\"\""),
            ("2000000", "1 to 1048576"),
            ("geometric:4", "geometric:MEAN..MAX"),
            ("geometric:9..8", "1 to the largest, 8"),
            ("geometric:NaN..8", "mean of NaN"),
        ] {
            let error = text.parse::<RowsDistribution>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn rows_stay_in_range_and_what_is_shown_can_be_read(
            low in 1u32..500, more in 0u32..500, weight in 1u32..100, seed: u64, index: u64,
        ) {
            for text in [
                format!("{low}..{}", low + more),
                format!("{low}:{weight},{}..{}:{weight}", low, low + more),
                format!("geometric:{low}..{}", low + more),
            ] {
                let distribution = parse(&text);
                let rows = distribution.rows(seed, index);
                prop_assert!(rows >= 1 && rows <= distribution.rows_max(), "{} {}", text, rows);
                prop_assert_eq!(&parse(&distribution.to_string()), &distribution);
            }
        }
    }
}
