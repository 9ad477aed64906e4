//! Choosing among sets, and how sure a choice is.

use super::goal::{Direction, Goal};
use super::metrics::{Measure, Metric, Ratio};
use super::search::Point;
use logitd_core::evaluate::sums::SetSums;

/// The means of a set that a goal is about, in the order of [`Goal::metrics`].
#[derive(Clone, Copy, Debug)]
pub struct Scored<'a> {
    /// The set.
    pub point: Point,
    /// Rows that were summed.
    pub rows: u64,
    /// Their sums.
    pub sums: &'a SetSums,
}

/// Chooses by a goal.
#[derive(Clone, Copy, Debug)]
pub struct Chooser<'a> {
    /// What is wanted.
    pub goal: &'a Goal,
    /// What sums are made means by.
    pub measure: Measure,
}

impl Chooser<'_> {
    fn mean(&self, metric: Metric, set: &Scored<'_>) -> f64 {
        self.measure.mean(metric, set.rows, set.sums)
    }

    /// What the best set of all has of each limit's metric.
    pub fn bests(&self, sets: &[Scored<'_>]) -> Vec<f64> {
        let best = |metric, at_most| {
            let values = sets.iter().map(|set| self.mean(metric, set));
            if at_most {
                values.fold(f64::INFINITY, f64::min)
            } else {
                values.fold(f64::NEG_INFINITY, f64::max)
            }
        };
        self.goal.limits.iter().map(|limit| best(limit.metric, limit.at_most)).collect()
    }

    /// How far each set is beyond each limit; within it at 0 or less.
    pub fn excesses(&self, sets: &[Scored<'_>]) -> Vec<Vec<f64>> {
        let bests = self.bests(sets);
        let excess = |set: &Scored<'_>| {
            let limits = self.goal.limits.iter().zip(&bests);
            limits.map(|(limit, best)| limit.excess(self.mean(limit.metric, set), *best)).collect()
        };
        sets.iter().map(excess).collect()
    }

    /// The places of the sets within all limits, the best first. Of equals, the one with fewer cuts, then the one whose
    /// temperature is nearer to 1, then the first.
    pub fn ranked(&self, sets: &[Scored<'_>]) -> Vec<usize> {
        let excesses = self.excesses(sets);
        let mut within: Vec<(f64, usize, f32, usize)> = excesses
            .iter()
            .enumerate()
            .filter(|(_, excesses)| excesses.iter().all(|excess| *excess <= 0.0))
            .map(|(i, _)| {
                let cost = self.goal.direction.cost(self.mean(self.goal.metric, &sets[i]));
                (cost, sets[i].point.cuts(), (sets[i].point.temperature - 1.0).abs(), i)
            })
            .collect();
        within.sort_by(|a, b| a.partial_cmp(b).expect("no mean is NaN"));
        within.into_iter().map(|(.., i)| i).collect()
    }
}

/// The places of the sets that no other set is better than in one metric and as good in the other, by the first.
pub fn front(sets: &[Scored<'_>], measure: Measure, of: [(Metric, Direction); 2]) -> Vec<usize> {
    let cost = |set: &Scored<'_>| {
        of.map(|(metric, direction)| direction.cost(measure.mean(metric, set.rows, set.sums)))
    };
    let mut order: Vec<([f64; 2], usize)> = sets.iter().map(cost).zip(0..).collect();
    order.sort_by(|a, b| a.partial_cmp(b).expect("no mean is NaN"));
    let mut least = f64::INFINITY;
    order.retain(|([_, second], _)| {
        let better = *second < least;
        least = least.min(*second);
        better
    });
    order.into_iter().map(|(_, i)| i).collect()
}

/// A difference of two sets over the same rows, and its standard error.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Difference {
    /// Of the means.
    pub mean: f64,
    /// By clusters of rows, which need not be independent of each other; `None` where there are fewer than two.
    pub error: Option<f64>,
}

/// The difference of a metric, over clusters: the rows of each, and both sets' sums.
pub fn paired(
    measure: Measure,
    metric: Metric,
    clusters: impl Iterator<Item = (u64, SetSums, SetSums)> + Clone,
) -> Difference {
    let ratios = clusters
        .filter(|(rows, ..)| *rows > 0)
        .map(|(rows, a, b)| [&a, &b].map(|sums| measure.ratio(metric, rows, sums)));
    let add = |[a, b]: [Ratio; 2], [own_a, own_b]: [Ratio; 2]| [a + own_a, b + own_b];
    let [all_a, all_b] = ratios.clone().fold([Ratio::default(); 2], add);
    let mean = all_a.quotient() - all_b.quotient();
    // Of a ratio of sums: what each cluster is away from its share.
    let (count, squares) = ratios.fold((0.0, 0.0), |(n, squares), [a, b]| {
        (n + 1.0, squares + (a.away(&all_a) - b.away(&all_b)).powi(2))
    });
    let error = (count > 1.0).then(|| (squares * count / (count - 1.0)).sqrt());
    Difference { mean, error }
}

/// What makes a set simpler than another: fewer cuts, then a temperature nearer to 1.
pub fn complexity(point: Point) -> (usize, f32) {
    (point.cuts(), (point.temperature - 1.0).abs())
}

/// The place of the simplest set that is as good as the first: among those whose cost is no more than one standard error
/// above its, the one with the fewest cuts, and of these the one whose temperature is nearest to 1.
pub fn simplest(
    points: &[Point],
    differences: &[Difference],
    direction: Direction,
) -> Option<usize> {
    let as_good = points.iter().zip(differences).enumerate().filter(|(_, (_, difference))| {
        direction.cost(difference.mean) <= difference.error.unwrap_or(0.0)
    });
    let simple = as_good.map(|(i, (point, _))| (complexity(*point), i));
    simple.min_by(|a, b| a.partial_cmp(b).expect("no temperature is NaN")).map(|(_, i)| i)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEASURE: Measure = Measure { miss_nats: 10.0 };

    /// Four rows that are all kept, with a mean nll and a tail.
    fn sums(nll: f64, tail: f64) -> SetSums {
        let q32 = |x: f64| (x * 4.0 * 4_294_967_296.0) as i64;
        SetSums {
            hits: 4,
            logprob_q32: -q32(nll),
            tail_q32: q32(tail) as u64,
            ..Default::default()
        }
    }

    fn point(temperature: f32, top_k: u32, min_p: f32) -> Point {
        Point { temperature, top_k, min_p, ..Point::PLAIN }
    }

    #[test]
    fn the_best_keeps_to_the_limits() {
        let all = [
            (point(1.0, 0, 0.0), sums(3.0, 0.05)),
            (point(1.1, 50, 0.0), sums(3.5, 0.0009)),
            (point(1.2, 50, 0.1), sums(3.25, 0.0005)),
            (point(1.3, 50, 0.0), sums(3.25, 0.0005)),
        ];
        let sets: Vec<Scored<'_>> =
            all.iter().map(|(point, sums)| Scored { point: *point, rows: 4, sums }).collect();
        let ranked = |goal: &Goal| Chooser { goal, measure: MEASURE }.ranked(&sets);
        // Of two that are equal, the one with fewer cuts.
        assert_eq!(ranked(&Goal::named("safe").unwrap()), [3, 2, 1]);
        assert_eq!(ranked(&Goal::named("nll").unwrap()), [0, 3, 2, 1]);
        let mut near = Goal::named("nll").unwrap();
        near.limits = vec!["nll<=best+0.25".parse().unwrap(), "tail>=0.0004".parse().unwrap()];
        assert_eq!(ranked(&near), [0, 3, 2]);
        let mut none = Goal::named("nll").unwrap();
        none.limits = vec!["tail<=0".parse().unwrap()];
        assert!(ranked(&none).is_empty());
        let of = [(Metric::Nll, Direction::Least), (Metric::Tail, Direction::Least)];
        assert_eq!(front(&sets, MEASURE, of), [0, 2]);
    }

    #[test]
    fn errors_of_paired_differences_are_those_of_clusters() {
        // Every row of a cluster differs by the cluster's own: 1, 2 and 3 nats over two rows each.
        let clusters = [1.0, 2.0, 3.0].map(|d| {
            let own = |nll: f64| SetSums {
                hits: 2,
                logprob_q32: -((nll * 2.0 * 4_294_967_296.0) as i64),
                ..Default::default()
            };
            (2, own(4.0 + d), own(4.0))
        });
        let found = paired(MEASURE, Metric::Nll, clusters.into_iter());
        // The mean of 1, 2, 3, and the standard error of that mean: sqrt(1 / 3).
        assert!((found.mean - 2.0).abs() < 1e-9, "{found:?}");
        assert!((found.error.unwrap() - (1.0f64 / 3.0).sqrt()).abs() < 1e-9, "{found:?}");
        assert_eq!(paired(MEASURE, Metric::Nll, clusters.into_iter().take(1)).error, None);
        let none = paired(MEASURE, Metric::Nll, std::iter::empty());
        assert_eq!((none.mean, none.error), (0.0, None));
    }

    #[test]
    fn paired_differences_are_those_of_the_means() {
        const ONE: u64 = 1 << 32;
        let own = |hits, collision| SetSums {
            hits,
            kept: 7 * hits,
            logprob_q32: -((hits * ONE) as i64),
            probability_q32: ONE / 3,
            entropy_q32: hits * ONE,
            surprise_q32: 2 * ONE,
            collision_q32: collision,
            tail_q32: collision / 9,
        };
        let clusters = [
            (3, own(3, ONE / 100), own(2, ONE / 2)),
            (1, own(1, ONE), own(1, ONE / 3)),
            (5, own(2, 2 * ONE), own(4, ONE / 7)),
        ];
        let pooled = |which: fn(&(u64, SetSums, SetSums)) -> SetSums| {
            let mut all = SetSums::default();
            clusters.iter().for_each(|cluster| all += which(cluster));
            all
        };
        let (a, b) = (pooled(|cluster| cluster.1), pooled(|cluster| cluster.2));
        for metric in Metric::ALL {
            let found = paired(MEASURE, metric, clusters.into_iter());
            let wanted = MEASURE.mean(metric, 9, &a) - MEASURE.mean(metric, 9, &b);
            assert!((found.mean - wanted).abs() < 1e-9, "{}: {found:?}, {wanted}", metric.name());
            assert!(found.error.unwrap() > 0.0 || metric == Metric::Surprise, "{}", metric.name());
        }
    }

    #[test]
    fn the_simplest_is_within_one_error_and_has_the_fewest_cuts() {
        let points =
            [point(1.2, 50, 0.1), point(1.5, 50, 0.0), point(0.9, 50, 0.0), point(1.0, 0, 0.0)];
        let difference = |mean, error| Difference { mean, error: Some(error) };
        let differences = [
            difference(0.0, 0.0),
            difference(0.01, 0.02),
            difference(0.02, 0.02),
            difference(0.5, 0.1),
        ];
        assert_eq!(simplest(&points, &differences, Direction::Least), Some(2));
        // Where more is better, less is worse.
        let more = differences.map(|d| Difference { mean: -d.mean, ..d });
        assert_eq!(simplest(&points, &more, Direction::Greatest), Some(2));
        assert_eq!(simplest(&points[..1], &differences[..1], Direction::Least), Some(0));
    }
}
