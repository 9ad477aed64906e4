//! What is wanted of a set: the least or greatest of one metric, within limits of others.

use super::metrics::Metric;
use std::fmt;
use std::str::FromStr;

/// What is wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What is made least or greatest.
    pub metric: Metric,
    /// Which of the two.
    pub direction: Direction,
    /// What a set must keep to.
    pub limits: Vec<Limit>,
}

/// Whether less is better, or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Less is.
    Least,
    /// More is.
    Greatest,
}

impl Direction {
    /// A number that is less where the value is better.
    pub fn cost(self, value: f64) -> f64 {
        match self {
            Self::Least => value,
            Self::Greatest => -value,
        }
    }
}

/// What a metric must not be above, or below.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Which metric.
    pub metric: Metric,
    /// Whether it must not be above.
    pub at_most: bool,
    /// The number itself, or what the best of all sets has and this more.
    pub bound: Bound,
}

/// What a metric is compared with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bound {
    /// A number.
    Value(f64),
    /// The best that any set has, and so much more.
    OfBest(f64),
}

impl Limit {
    /// How far beyond the limit a value is: above 0 where it is.
    pub fn excess(&self, value: f64, best: f64) -> f64 {
        let bound = match self.bound {
            Bound::Value(bound) => bound,
            Bound::OfBest(more) => best + more,
        };
        if self.at_most { value - bound } else { bound - value }
    }
}

impl Goal {
    /// The goals that have names.
    pub const NAMES: [&str; 4] = ["safe", "nll", "diverse", "brier"];

    /// The goal of that name.
    pub fn named(name: &str) -> Option<Self> {
        let limit = |metric, bound| Limit { metric, at_most: true, bound };
        let least = |metric, limits| Self { metric, direction: Direction::Least, limits };
        Some(match name {
            "safe" => least(Metric::Nll, vec![limit(Metric::Tail, Bound::Value(0.001))]),
            "nll" => least(Metric::Nll, vec![]),
            "brier" => least(Metric::Brier, vec![]),
            "diverse" => Self {
                metric: Metric::Entropy,
                direction: Direction::Greatest,
                limits: vec![
                    limit(Metric::Tail, Bound::Value(0.01)),
                    limit(Metric::Nll, Bound::OfBest(0.1)),
                ],
            },
            _ => return None,
        })
    }

    /// The metrics that it is about: first that which is made least or greatest, and no other twice.
    pub fn metrics(&self) -> Vec<Metric> {
        let mut metrics = vec![self.metric];
        for limit in &self.limits {
            if !metrics.contains(&limit.metric) {
                metrics.push(limit.metric);
            }
        }
        metrics
    }
}

/// `least nll with tail <= 0.001`.
impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let which = match self.direction {
            Direction::Least => "least",
            Direction::Greatest => "greatest",
        };
        write!(f, "{which} {}", self.metric.name())?;
        for (i, limit) in self.limits.iter().enumerate() {
            write!(f, " {} {limit}", if i == 0 { "with" } else { "and" })?;
        }
        Ok(())
    }
}

/// The inverse of how it is shown.
impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (wanted, limits) = text.split_once(" with ").unwrap_or((text, ""));
        let (direction, name) = match wanted.split_once(' ') {
            Some(("least", name)) => (Direction::Least, name),
            Some(("greatest", name)) => (Direction::Greatest, name),
            _ => return Err(format!("{text:?} is no goal; one is: least nll with tail <= 0.001")),
        };
        let limits = limits.split(" and ").filter(|limit| !limit.is_empty()).map(str::parse);
        Ok(Self { metric: metric(name)?, direction, limits: limits.collect::<Result<_, _>>()? })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.at_most { "<=" } else { ">=" };
        write!(f, "{} {sign} ", self.metric.name())?;
        match self.bound {
            Bound::Value(value) => write!(f, "{value}"),
            Bound::OfBest(more) => write!(f, "best{more:+}"),
        }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (at_most, (name, bound)) = match (text.split_once("<="), text.split_once(">=")) {
            (Some(parts), None) => (true, parts),
            (None, Some(parts)) => (false, parts),
            _ => {
                return Err(format!(
                    "{text:?} is no limit; write tail<=0.001, coverage>=0.9 or nll<=best+0.1"
                ));
            }
        };
        let metric = metric(name.trim())?;
        let bound = bound.trim();
        let number = |text: &str| {
            let number = text.trim().parse::<f64>().ok().filter(|number| number.is_finite());
            number.ok_or_else(|| {
                format!("{text:?} in {name}'s limit is no number; write tail<=0.001")
            })
        };
        let bound = match bound.strip_prefix("best") {
            Some("") => Bound::OfBest(0.0),
            Some(more) => Bound::OfBest(number(more)?),
            None => Bound::Value(number(bound)?),
        };
        Ok(Self { metric, at_most, bound })
    }
}

/// The metric of that name, or what there is.
pub fn metric(name: &str) -> Result<Metric, String> {
    Metric::named(name).ok_or_else(|| {
        let known = Metric::ALL.map(Metric::name).join(", ");
        format!("{name:?} is no metric; there are: {known}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goals_say_what_they_are() {
        let said = Goal::NAMES.map(|name| Goal::named(name).unwrap().to_string());
        assert_eq!(
            said,
            [
                "least nll with tail <= 0.001",
                "least nll",
                "greatest entropy with tail <= 0.01 and nll <= best+0.1",
                "least brier"
            ]
        );
        for (name, text) in Goal::NAMES.iter().zip(&said) {
            assert_eq!(text.parse::<Goal>().ok(), Goal::named(name));
        }
        for text in ["", "nll", "most nll", "least loss", "least nll with tail"] {
            assert!(text.parse::<Goal>().is_err(), "{text}");
        }
        assert!(Goal::named("best").is_none());
        let diverse = Goal::named("diverse").unwrap();
        assert_eq!(diverse.metrics(), [Metric::Entropy, Metric::Tail, Metric::Nll]);
    }

    #[test]
    fn limits_read_back_as_they_are_shown() {
        for text in ["tail <= 0.001", "coverage >= 0.9", "nll <= best+0.1", "nll <= best-0.5"] {
            assert_eq!(text.parse::<Limit>().unwrap().to_string(), text);
        }
        let limit: Limit = "nll<=best+0.1".parse().unwrap();
        assert!(limit.excess(3.61, 3.5) > 0.0 && limit.excess(3.59, 3.5) < 0.0);
        let limit: Limit = "coverage>=0.9".parse().unwrap();
        assert!(limit.excess(0.89, 1.0) > 0.0 && limit.excess(0.9, 1.0) == 0.0);
        for (text, part) in [
            ("tail", "no limit"),
            ("tail<0.1", "no limit"),
            ("tails<=0.1", "no metric; there are: nll, brier"),
            ("tail<=x", "no number"),
            ("tail<=NaN", "no number"),
            ("nll<=bests", "no number"),
        ] {
            let said = text.parse::<Limit>().unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }
}
