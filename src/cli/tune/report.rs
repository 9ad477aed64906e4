//! What is said of a study: the best of its sets, what others cost, and how sure that is.

use crate::cli::text::grouped;
use crate::study::choose::{self, Difference, Scored};
use crate::study::goal::Direction;
use crate::study::metrics::Metric;
use crate::study::results::Results;
use crate::study::search::{Axes, Point};
use logitd_core::evaluate::sums::SetSums;
use std::error::Error;

/// Sets that are as good as the best and simpler are looked for among so many.
const SHORTLIST: usize = 4096;
/// The plain model, by name.
pub const PLAIN: &str = "plain";

/// Rows of each cluster, and a sum a set.
pub type Clusters = Vec<(u64, Vec<SetSums>)>;

/// A setting that is shown.
#[derive(Clone, Debug)]
pub struct Shown {
    pub name: String,
    pub point: Point,
    pub sums: SetSums,
    /// How much worse its nll is than that of the best.
    pub difference: Difference,
}

/// The settings that none is better than in both of two metrics, and what each comes to.
#[derive(Debug)]
pub struct Front {
    pub of: [Metric; 2],
    pub sets: Vec<(Point, SetSums)>,
}

/// What was chosen without a part of the rows, and what it is worth there.
#[derive(Debug)]
pub struct Fold {
    /// Where nothing was within the limits, the best over all rows.
    pub point: Point,
    pub within_limits: bool,
    /// Rows of the part.
    pub rows: u64,
    /// Over them, of what was chosen.
    pub sums: SetSums,
    /// And of the best over all rows.
    pub best: SetSums,
}

/// Everything that is said.
#[derive(Debug)]
pub struct Report<'a> {
    pub results: &'a Results,
    /// The values whose grid is drawn where it was tried.
    pub axes: Axes,
    /// The best, and what was named.
    pub shown: Vec<Shown>,
    /// The simplest setting that is as good as the best, where it is known how sure differences are.
    pub simplest: Option<Shown>,
    pub front: Option<Front>,
    pub folds: Vec<Fold>,
}

impl<'a> Report<'a> {
    /// Chooses, and compares the best with settings that are named. `clusters` works out sets over each cluster of rows,
    /// from which errors follow; where it cannot, the study has each of these sets.
    pub fn new(
        results: &'a Results,
        axes: Axes,
        named: Vec<(String, Point)>,
        pareto: Option<[(Metric, Direction); 2]>,
        clusters: impl FnOnce(&[Point]) -> Result<Option<Clusters>, Box<dyn Error>>,
    ) -> Result<Self, Box<dyn Error>> {
        let sets = results.scored();
        let ranked = results.chooser().ranked(&sets);
        let Some(&best) = ranked.first() else { return Err(none_within(results, &sets).into()) };
        let best = sets[best].point;
        let mut points = vec![best];
        points.extend(named.iter().map(|(_, point)| *point));
        let others = points.len();
        // The best itself, and what is simpler, the best first.
        let simpler = |&&i: &&usize| choose::complexity(sets[i].point) < choose::complexity(best);
        points.push(best);
        points.extend(ranked.iter().filter(simpler).take(SHORTLIST).map(|&i| sets[i].point));

        let known = clusters(&points)?;
        let is_sure = known.is_some();
        let clusters = known.unwrap_or_else(|| {
            let total =
                |point: &Point| *sets[results.place(*point).expect("it was evaluated")].sums;
            vec![(results.rows(), points.iter().map(total).collect())]
        });
        let differences = |metric| -> Vec<Difference> {
            let paired = |i: usize| {
                let both = clusters.iter().map(|(rows, sets)| (*rows, sets[i], sets[0]));
                choose::paired(results.subject().measure, metric, both)
            };
            (0..points.len()).map(paired).collect()
        };
        let of_nll = differences(Metric::Nll);
        let goal = &results.subject().goal;
        let of_goal = differences(goal.metric);
        let shown = |i: usize, name: &str| Shown {
            name: name.into(),
            point: points[i],
            sums: clusters.iter().fold(SetSums::default(), |mut sum, (_, sets)| {
                sum += sets[i];
                sum
            }),
            difference: of_nll[i],
        };
        let simplest = choose::simplest(&points[others..], &of_goal[others..], goal.direction);
        let simplest = simplest.expect("the best is as good as itself");
        let names = std::iter::once("best").chain(named.iter().map(|(name, _)| name.as_str()));
        Ok(Self {
            results,
            axes,
            shown: names.enumerate().map(|(i, name)| shown(i, name)).collect(),
            simplest: is_sure.then(|| shown(others + simplest, "simplest")),
            front: pareto.map(|of| front(results, &sets, of)),
            folds: Vec::new(),
        })
    }

    /// A mean of a setting.
    pub fn mean(&self, metric: Metric, shown: &Shown) -> f64 {
        self.results.mean(metric, &shown.sums)
    }

    /// The best.
    pub fn best(&self) -> &Shown {
        &self.shown[0]
    }

    /// The plain model, if it is shown.
    pub fn plain(&self) -> Option<&Shown> {
        self.shown.iter().find(|shown| shown.name == PLAIN)
    }

    /// The places that the labels' names and rows have.
    pub fn groups(&self) -> impl Iterator<Item = (u32, String, u64)> {
        let subject = self.results.subject();
        let name = |label: &u32| subject.group_names.get(label).cloned();
        subject
            .group_rows
            .iter()
            .map(move |(label, rows)| (*label, name(label).unwrap_or(label.to_string()), *rows))
    }
}

fn front(results: &Results, sets: &[Scored<'_>], of: [(Metric, Direction); 2]) -> Front {
    let front = choose::front(sets, results.subject().measure, of);
    Front {
        of: of.map(|(metric, _)| metric),
        sets: front.into_iter().map(|i| (sets[i].point, *sets[i].sums)).collect(),
    }
}

/// Chooses without each part of the rows, and measures on that part. `parts` has the sums of every set of the study.
pub fn folds(results: &Results, best: Point, parts: &Clusters) -> Vec<Fold> {
    let trials = results.trials();
    let best = results.place(best).expect("one of them");
    let one = |left_out: usize| {
        let (rows, held) = &parts[left_out];
        let rest: Vec<SetSums> = (0..trials.len())
            .map(|i| {
                let others = parts.iter().enumerate().filter(|(part, _)| *part != left_out);
                others.fold(SetSums::default(), |mut sum, (_, (_, sets))| {
                    sum += sets[i];
                    sum
                })
            })
            .collect();
        let sets: Vec<Scored<'_>> = trials
            .iter()
            .zip(&rest)
            .map(|(of, sums)| Scored { point: of.point, rows: results.rows() - rows, sums })
            .collect();
        let chosen = results.chooser().ranked(&sets).first().copied();
        let place = chosen.unwrap_or(best);
        Fold {
            point: trials[place].point,
            within_limits: chosen.is_some(),
            rows: *rows,
            sums: held[place],
            best: held[best],
        }
    };
    (0..parts.len()).map(one).collect()
}

/// Why nothing was chosen.
fn none_within(results: &Results, sets: &[Scored<'_>]) -> String {
    let goal = &results.subject().goal;
    let limits: Vec<String> = goal.limits.iter().map(ToString::to_string).collect();
    let bests = goal.limits.iter().zip(results.chooser().bests(sets)).map(|(limit, best)| {
        let word = if limit.at_most { "least" } else { "greatest" };
        format!("the {word} {} of all is {best:.6}", limit.metric.name())
    });
    format!(
        "no setting of {} keeps to {}: {}; loosen a limit (--subject-to), or widen the lists",
        grouped(sets.len() as u64),
        limits.join(" and "),
        bests.collect::<Vec<_>>().join(", ")
    )
}
