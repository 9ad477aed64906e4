//! What one study says of another: whether what was chosen in one is good in the other.

use super::choose::Scored;
use super::goal::Limit;
use super::metrics::Metric;
use super::results::Results;
use super::search::Point;

/// The settings that two studies have both tried: in each, the same at the same place.
pub fn common<'a>(a: &'a Results, b: &'a Results) -> [Vec<Scored<'a>>; 2] {
    let places = a.trials().iter().enumerate().filter_map(|(i, t)| Some((i, b.place(t.point)?)));
    let (in_a, in_b) = (a.scored(), b.scored());
    places.map(|(i, j)| (in_a[i], in_b[j])).unzip::<_, _, Vec<_>, Vec<_>>().into()
}

/// A setting that one study chose, in another.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// Chosen by the goal of the first, among what both have tried.
    pub point: Point,
    /// What it has there of the second's metric.
    pub mean: f64,
    /// How much worse that is than what the second would have chosen.
    pub regret: f64,
    /// The limits of the second that it is beyond, and what it has of them.
    pub beyond: Vec<(Limit, f64)>,
}

/// Chooses in `from`, and measures in `to`: both have tried `sets`. `None` where nothing is within the limits of either.
pub fn transfer(
    from: (&Results, &[Scored<'_>]),
    to: (&Results, &[Scored<'_>]),
) -> Option<Transfer> {
    let chosen = *from.0.chooser().ranked(from.1).first()?;
    let chooser = to.0.chooser();
    let best = *chooser.ranked(to.1).first()?;
    let mean = |i: usize, metric: Metric| to.0.mean(metric, to.1[i].sums);
    let metric = chooser.goal.metric;
    let cost = |i| chooser.goal.direction.cost(mean(i, metric));
    let excesses = chooser.excesses(to.1).swap_remove(chosen);
    let beyond = chooser.goal.limits.iter().zip(excesses).filter(|(_, excess)| *excess > 0.0);
    Some(Transfer {
        point: to.1[chosen].point,
        mean: mean(chosen, metric),
        regret: cost(chosen) - cost(best),
        beyond: beyond.map(|(limit, _)| (*limit, mean(chosen, limit.metric))).collect(),
    })
}

/// Spearman's correlation of the ranks that two studies give to the same sets; `None` where one gives all the same.
pub fn rank_correlation(
    a: (&Results, &[Scored<'_>]),
    b: (&Results, &[Scored<'_>]),
    metric: Metric,
) -> Option<f64> {
    let ranks = |of: (&Results, &[Scored<'_>])| {
        let means: Vec<f64> = of.1.iter().map(|set| of.0.mean(metric, set.sums)).collect();
        ranks(&means)
    };
    let (a, b) = (ranks(a), ranks(b));
    let middle = (a.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| -> f64 {
        x.iter().zip(y).map(|(x, y)| (x - middle) * (y - middle)).sum()
    };
    let both = (product(&a, &a) * product(&b, &b)).sqrt();
    (both > 0.0).then(|| product(&a, &b) / both)
}

/// The rank of each value from 0; equals share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&a, &b| values[a].total_cmp(&values[b]));
    let mut ranks = vec![0.0; values.len()];
    let mut first = 0;
    for run in order.chunk_by(|&a, &b| values[a] == values[b]) {
        let rank = first as f64 + (run.len() as f64 - 1.0) / 2.0;
        run.iter().for_each(|&i| ranks[i] = rank);
        first += run.len();
    }
    ranks
}

#[cfg(test)]
mod tests {
    use super::super::journal::Trial;
    use super::super::metrics::Measure;
    use super::super::results::Subject;
    use super::*;
    use logitd_core::evaluate::TailShare;
    use logitd_core::evaluate::sums::SetSums;

    fn point(top_k: u32) -> Point {
        Point { top_k, ..Point::PLAIN }
    }

    /// A study of one row with sets that have a `top_k`, an nll and a tail.
    fn results(goal: &str, sets: &[(u32, f64, f64)]) -> Results {
        let q32 = |x: f64| (x * 4_294_967_296.0) as i64;
        let trial = |(top_k, nll, tail): &(u32, f64, f64)| Trial {
            point: point(*top_k),
            total: SetSums {
                hits: 1,
                logprob_q32: -q32(*nll),
                tail_q32: q32(*tail) as u64,
                ..SetSums::default()
            },
            groups: vec![],
        };
        let subject = Subject {
            goal: goal.parse().unwrap(),
            measure: Measure { miss_nats: 9.0 },
            tail: TailShare::default(),
            vocab_size: 9,
            logits_sha256: String::new(),
            grouped: false,
            group_names: Default::default(),
            group_rows: [(0, 1)].into(),
            rows_failed: 0,
        };
        assert_eq!(Subject::from_attributes(&attributes(&subject)), Ok(subject.clone()));
        Results::new(subject, sets.iter().map(trial).collect())
    }

    fn attributes(subject: &Subject) -> serde_json::Map<String, serde_json::Value> {
        let named = subject.to_attributes().into_iter();
        named.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    #[test]
    fn what_one_study_chose_is_measured_in_the_other() {
        let limited = "least nll with tail <= 0.25";
        let a = results(limited, &[(1, 2.0, 0.5), (2, 2.5, 0.0), (3, 3.0, 0.0), (9, 1.0, 0.0)]);
        let b = results(limited, &[(3, 2.0, 0.0), (2, 2.25, 0.5), (1, 1.0, 0.0), (8, 0.0, 0.0)]);
        let [in_a, in_b] = common(&a, &b);
        let points = |sets: &[Scored<'_>]| sets.iter().map(|s| s.point.top_k).collect::<Vec<_>>();
        assert_eq!((points(&in_a), points(&in_b)), (vec![1, 2, 3], vec![1, 2, 3]));
        let there = transfer((&a, &in_a), (&b, &in_b)).unwrap();
        let beyond = vec![("tail <= 0.25".parse().unwrap(), 0.5)];
        assert_eq!(there, Transfer { point: point(2), mean: 2.25, regret: 1.25, beyond });
        let back = transfer((&b, &in_b), (&a, &in_a)).unwrap();
        assert_eq!((back.point, back.regret, back.beyond.len()), (point(1), -0.5, 1));
        let none = results("least nll with tail <= 0", &[(1, 1.0, 0.5)]);
        let [in_none, in_a] = common(&none, &a);
        assert_eq!(transfer((&none, &in_none), (&a, &in_a)), None);
    }

    #[test]
    fn ranks_correlate_as_spearman_has_it() {
        assert_eq!(ranks(&[3.0, 1.0, 3.0, 2.0]), [2.5, 0.0, 2.5, 1.0]);
        let of = |nlls: [f64; 4]| {
            let sets: Vec<_> = (1..).zip(nlls).map(|(k, nll)| (k, nll, 0.0)).collect();
            results("least nll", &sets)
        };
        let correlation = |a: [f64; 4], b: [f64; 4]| {
            let (a, b) = (of(a), of(b));
            let [in_a, in_b] = common(&a, &b);
            rank_correlation((&a, &in_a), (&b, &in_b), Metric::Nll)
        };
        assert_eq!(correlation([1.0, 2.0, 3.0, 4.0], [1.0, 4.0, 9.0, 16.0]), Some(1.0));
        assert_eq!(correlation([1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        // Differences of ranks 0, 1, -1, 0: 1 - 6 * 2 / (4 * 15).
        assert_eq!(correlation([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]), Some(0.8));
        assert_eq!(correlation([1.0; 4], [1.0, 3.0, 2.0, 4.0]), None);
    }
}
