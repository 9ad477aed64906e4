//! The flags of `logitd tune`, and what they come to.

use crate::cli::positions::PositionsArgs;
use crate::cli::target::ServerArgs;
use crate::config::values::{self, number};
use crate::record::Setting;
use crate::study::goal::{Direction, Goal, Limit, metric};
use crate::study::metrics::Metric;
use crate::study::search::{Axes, Point, SETS_MAX, SOBOL_MAX, can_be_off};
use crate::study::session::Search;
use crate::wire::names::nearest;
use clap::ValueEnum;
use logitd_core::evaluate::TailShare;
use logitd_core::evaluate::sets::FIELDS_OF_SETS;
use logitd_core::params::{Field, ParamsSpec};
use std::error::Error;
use std::path::PathBuf;

/// Sets of a search that is no grid, unless somebody names a number.
const SETS_DEFAULT: usize = 2048;
/// Rounds around the best after the default grid.
const ROUNDS_DEFAULT: usize = 2;

/// What belongs to a search, and not to what one found.
const NOT_SHOWN: [&str; 19] = [
    "logits",
    "digests",
    "goal",
    "minimize",
    "maximize",
    "subject_to",
    "miss_nats",
    "tail_share",
    "search",
    "sets",
    "seed",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "axis",
    "folds",
    "study",
    "target",
];

/// Find the best temperature, top-k, top-p and min-p for a model and a kind of text, by experiment
///
/// Takes logits and the token that really came after each row, works out what tens of thousands of settings make of
/// them, exactly, and says which is best, what it costs, and how sure that is. Every setting is recorded in a file that
/// Optuna and its dashboard open. Without files it works on 64 positions that the program carries.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLES)]
pub struct Args {
    /// Where the positions are.
    #[command(flatten)]
    pub positions: PositionsArgs,

    /// A file that `logitd digest` wrote, in place of logits
    #[arg(long, value_name = "FILE", conflicts_with = "logits")]
    pub digests: Option<PathBuf>,

    /// What is wanted: safe (least nll with tail <= 0.001), nll, diverse (greatest entropy with tail <= 0.01 and nll within
    /// 0.1 of the best), brier
    #[arg(long, value_name = "GOAL", default_value = "safe", value_parser = Goal::NAMES, help_heading = "Goal")]
    goal: String,

    /// The least of a metric instead: nll, brier, coverage, tail, entropy, choices, surprise, mean_kept
    #[arg(long, value_name = "METRIC", conflicts_with_all = ["goal", "maximize"], value_parser = metric, help_heading = "Goal")]
    minimize: Option<Metric>,

    /// The greatest of a metric instead
    #[arg(long, value_name = "METRIC", conflicts_with = "goal", value_parser = metric, help_heading = "Goal")]
    maximize: Option<Metric>,

    /// What a setting must keep to, beside what the goal says: tail<=0.001, coverage>=0.9, nll<=best+0.1. Repeatable
    #[arg(long, value_name = "LIMIT", help_heading = "Goal")]
    subject_to: Vec<Limit>,

    /// What a token of the text that is cut costs, in nats [default: ln of the vocabulary size, a uniform guess]
    #[arg(long, value_name = "NATS", value_parser = positive, allow_negative_numbers = true, help_heading = "Goal")]
    pub miss_nats: Option<f64>,

    /// A token counts as tail if its probability at temperature 1, before cuts, is below this: above 0, below 1
    #[arg(long, value_name = "SHARE", default_value = "0.0001", value_parser = tail_share, allow_negative_numbers = true, help_heading = "Goal")]
    pub tail_share: TailShare,

    /// Which settings are tried [default: the grid, then two rounds around its best, each with half the step]
    #[arg(long, value_enum, value_name = "KIND", help_heading = "Search")]
    search: Option<SearchArg>,

    /// How many settings, for random (up to 1048576) and sobol (up to 65536) [default: 2048]
    #[arg(long, value_name = "N", requires = "search", help_heading = "Search", value_parser = number(0..=SETS_MAX))]
    sets: Option<usize>,

    /// Seed of random and sobol
    #[arg(long, value_name = "N", default_value = "0", help_heading = "Search", value_parser = number(0..=u64::MAX))]
    pub seed: u64,

    /// Temperatures: values and ranges, such as 0.3:2.0:0.05 or 0.7,1.0 [default: 0.3 to 1.25 by 0.05, 1.3 to 2 by 0.1]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Search")]
    temperature: Option<String>,

    /// Values of top-k; off is one [default: 5,10,20,40,80,160,320,1000,off]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Search")]
    top_k: Option<String>,

    /// Values of top-p [default: 0.5,0.6,0.7,0.8,0.85,0.9,0.92,0.95,0.97,0.98,0.99,0.995,0.999,off]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Search")]
    top_p: Option<String>,

    /// Values of min-p [default: off,0.001,0.002,0.005,0.01,0.02,0.05,0.1,0.2,0.3]
    #[arg(long, value_name = "LIST", allow_hyphen_values = true, help_heading = "Search")]
    min_p: Option<String>,

    /// Values of another control, by its name: typical_p=off,0.9,0.95 or top_n_sigma=off,0.5:2:0.5. There are profile,
    /// top_n_sigma, top_h, top_a, epsilon_cutoff, eta_cutoff, typical_p, xtc_probability (0 or 1), xtc_threshold,
    /// dynatemp_range and dynatemp_exponent. Repeatable
    #[arg(long, value_name = "NAME=LIST", help_heading = "Search")]
    axis: Vec<String>,

    /// A setting to be shown beside the best: temperature=0.8,top_k=40,top_p=0.95,min_p=0.05, with any control that --axis
    /// has (what is left out is off), or what others use unless told otherwise: llama.cpp, vllm, hf (llama.cpp's numbers, in
    /// logitd's order: with profile=llamacpp, in its own). Repeatable
    #[arg(long, value_name = "SETTING", value_parser = compared, help_heading = "Output")]
    pub compare: Vec<Compared>,

    /// Show the Pareto front of two metrics (more is better for coverage, entropy and choices, less for the others)
    #[arg(long, value_name = "METRIC,METRIC", value_parser = pareto, help_heading = "Output")]
    pub pareto: Option<[(Metric, Direction); 2]>,

    /// Cross-validate: choose on all but one of N parts of the rows, measure on that one
    #[arg(long, value_name = "N", value_parser = number(2..=u32::MAX), help_heading = "Output")]
    pub folds: Option<u32>,

    /// Where settings are recorded, and looked up before anything is computed
    #[arg(long, value_name = "FILE", default_value = "study.journal", help_heading = "Output")]
    pub study: PathBuf,

    /// A page that loads nothing, with everything that is printed, all settings by nll and tail, and, where the
    /// whole grid of the lists was tried, heat maps of four pairs of parameters and how much each parameter matters
    /// [default: the name of the study with .html]
    #[arg(long = "report", value_name = "FILE", help_heading = "Output")]
    pub page: Option<PathBuf>,

    /// Show a study that is recorded, or two side by side, and evaluate nothing: STUDY is a file, or FILE#PART, with a part of
    /// the name of one of its studies. --report draws one study again
    #[arg(long, value_name = "STUDY", num_args = 1..=2, conflicts_with_all = NOT_SHOWN, help_heading = "Output")]
    pub show: Vec<String>,

    /// How many tokens of a trace (`logitd serve --record`) other parameters would have changed: every request of Sample is
    /// sampled again, with its seeds, and with what a --compare names in place of its own
    #[arg(long, value_name = "TRACE", conflicts_with_all = NOT_SHOWN, conflicts_with_all = ["show", "pareto", "page"], help_heading = "Output")]
    pub recorded: Option<PathBuf>,

    /// Print a line of JSON a setting instead of tables: the simplest that is as good as the best after those that are shown,
    /// then those of the front, then what was chosen without each fold, measured on it
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// A running server that evaluates the settings of the search: http://HOST:PORT, https://HOST:PORT (with --tls-ca) or
    /// unix:PATH. Repeatable: chunks of rows go to whichever is free, and their sums add up
    #[arg(long = "target", id = "target", value_name = "ADDR", help_heading = "Servers")]
    pub targets: Vec<String>,

    /// How to reach servers that ask who calls.
    #[command(flatten, next_help_heading = "Servers")]
    pub servers: ServerArgs,

    /// Threads; 0: one for each core
    #[arg(long, value_name = "N", default_value = "0", value_parser = values::threads)]
    pub threads: usize,
}

const EXAMPLES: &str = "\
Examples:
  logitd tune                                                    64 carried positions
  logitd tune --logits rows.npy --targets next.npy               your own: 35,280 settings
  logitd tune --digests rows.digests --compare llama.cpp         from what `logitd digest` wrote
  logitd tune --logits rows.npy --targets next.npy --groups languages.npy --folds 5 \\
      --minimize nll --subject-to 'tail<=0.0005'                 another goal, cross-validated
  logitd tune --show study.journal                               what a search found, again
  logitd tune --show prose.journal code.journal                  two searches side by side
  logitd tune --recorded today.trace --compare temperature=0.7   what 0.7 would have changed
  optuna-dashboard study.journal                                 every setting, in a browser

Metrics, each a mean over positions but for choices:
  nll        mean negative log-likelihood of the text's tokens under a setting, in nats; lower is
             better. A token that is cut costs --miss-nats
  brier      squared distance between what is drawn and what came; finite whatever is cut
  coverage   tokens of the text that are kept
  tail       draws of tokens that the model itself holds for very unlikely
  entropy    nats of choice a step
  choices    of how many equally likely tokens the same one would be drawn twice in a row as often:
             rows over the sum of those chances
  surprise   nats that the model is surprised by what is drawn

A setting is judged a step after text that people wrote (teacher-forced). Errors that feed on
themselves, loops above all, show only in text that the model writes.";

/// A kind of search.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SearchArg {
    /// Every combination of the lists
    Grid,
    /// Random settings between those of the lists
    Random,
    /// Settings that fill that space evenly
    Sobol,
    /// Every third value of the lists, then around the best with half the step each round, wherever that leads within the
    /// lists' ends: until two rounds find nothing better, or steps are 0.01 of temperature, 0.002 of top-p, 0.0005 of min-p
    /// and a twentieth of top-k
    Refine,
}

/// A setting with the name that it is shown by.
#[derive(Clone, Debug, PartialEq)]
pub struct Compared {
    /// As it was given.
    pub name: String,
    /// What it is.
    pub point: Point,
    /// The same without what was left out.
    pub setting: Setting,
}

impl Args {
    /// What is wanted.
    pub fn goal(&self) -> Goal {
        let of = |metric, direction| Goal { metric, direction, limits: Vec::new() };
        let mut goal = match (self.minimize, self.maximize) {
            (Some(metric), _) => of(metric, Direction::Least),
            (_, Some(metric)) => of(metric, Direction::Greatest),
            _ => Goal::named(&self.goal).expect("one of the names"),
        };
        goal.limits.extend(&self.subject_to);
        goal
    }

    /// Where the page goes, which is not where the study is.
    pub fn report(&self) -> Result<PathBuf, String> {
        let page = self.page.clone().unwrap_or_else(|| self.study.with_extension("html"));
        match page != self.study {
            true => Ok(page),
            false => Err(format!(
                "--study {0} and --report {0} are one file; name another for one of them",
                page.display()
            )),
        }
    }

    /// Which settings are tried.
    pub fn search(&self) -> Result<Search, Box<dyn Error>> {
        let sets = |most: usize| match self.sets.unwrap_or(SETS_DEFAULT) {
            sets if (1..=most).contains(&sets) => Ok(sets),
            sets => Err(format!("--sets is {sets}; allowed: 1 to {most}")),
        };
        Ok(match self.search {
            Some(SearchArg::Random) => Search::Random(sets(SETS_MAX)?),
            Some(SearchArg::Sobol) => Search::Sobol(sets(SOBOL_MAX)?),
            _ if self.sets.is_some() => {
                return Err("--sets is for --search random and sobol; the lists say how many sets a grid has".into());
            }
            None => Search::Grid { rounds: ROUNDS_DEFAULT },
            Some(SearchArg::Grid) => Search::Grid { rounds: 0 },
            Some(SearchArg::Refine) => Search::Refine,
        })
    }

    /// The values of the search.
    pub fn axes(&self) -> Result<Axes, Box<dyn Error>> {
        let mut axes = Axes::default();
        let flags = [&self.temperature, &self.top_k, &self.top_p, &self.min_p];
        for (name, flag) in OWN_FLAGS.into_iter().zip(flags) {
            if let Some(text) = flag {
                axes.set(name, text)
                    .map_err(|error| format!("--{}: {error}", name.replace('_', "-")))?;
            }
        }
        let mut seen: Vec<&str> = Vec::new();
        for text in &self.axis {
            let (name, list) = text.split_once('=').ok_or_else(|| {
                format!("--axis {text:?} is no NAME=LIST; write typical_p=off,0.9")
            })?;
            let name = axis_named(name.trim())?;
            if seen.contains(&name) {
                return Err(format!("--axis {name} is given twice; leave one out").into());
            }
            seen.push(name);
            axes.set(name, list).map_err(|error| format!("--axis {name}: {error}"))?;
        }
        Ok(axes)
    }
}

/// Axes that have flags of their own: the first of a set's.
const OWN_FLAGS: [&str; 4] = *FIELDS_OF_SETS.first_chunk().expect("it has more");

/// An axis that has none, by the name of its parameter.
fn axis_named(name: &str) -> Result<&'static str, String> {
    if OWN_FLAGS.contains(&name) {
        let flag = name.replace('_', "-");
        return Err(format!("--axis {name}: it has a flag of its own; write --{flag} LIST"));
    }
    let others = || FIELDS_OF_SETS.into_iter().filter(|name| !OWN_FLAGS.contains(name));
    others().find(|of| *of == name).ok_or_else(|| {
        let meant = nearest(name, others());
        let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
        let known = others().collect::<Vec<_>>().join(", ");
        format!("--axis {name:?} is unknown; there are {known}{meant}")
    })
}

fn positive(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|x: &f64| *x > 0.0 && *x <= 4096.0);
    number.ok_or("allowed: above 0, up to 4096".into())
}

fn tail_share(text: &str) -> Result<TailShare, String> {
    let share = text.parse().ok().and_then(TailShare::new);
    share.ok_or("allowed: above 0, below 1".into())
}

fn pareto(text: &str) -> Result<[(Metric, Direction); 2], String> {
    let metrics = text.split(',').map(|name| metric(name.trim())).collect::<Result<Vec<_>, _>>()?;
    let directed = |metric| match metric {
        Metric::Coverage | Metric::Entropy | Metric::Choices => (metric, Direction::Greatest),
        _ => (metric, Direction::Least),
    };
    match metrics[..] {
        [a, b] if a != b => Ok([directed(a), directed(b)]),
        _ => Err("two metrics are needed, such as nll,tail".into()),
    }
}

/// What others use unless told otherwise.
const PRESETS: [(&str, Point); 3] = [
    ("llama.cpp", Point { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, ..Point::PLAIN }),
    ("vllm", Point::PLAIN),
    ("hf", Point { top_k: 50, ..Point::PLAIN }),
];

fn compared(text: &str) -> Result<Compared, String> {
    let named = |point: Point, of: &[&'static str]| {
        let spec = ParamsSpec::from(point);
        let value = |name: &&'static str| {
            let field = Field::named(name).expect("a parameter");
            (field.name, field.get(spec))
        };
        Compared { name: text.into(), point, setting: Setting::new(of.iter().map(value)) }
    };
    if let Some((_, point)) = PRESETS.iter().find(|(name, _)| *name == text) {
        return Ok(named(*point, &OWN_FLAGS));
    }
    let mut spec = ParamsSpec::default();
    let mut seen: Vec<&'static str> = Vec::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            let presets = PRESETS.map(|(name, _)| name).join(", ");
            format!(
                "{part:?} is no name=value and none of {presets}; write temperature=0.8,top_k=40"
            )
        })?;
        let (name, value) = (name.trim(), value.trim());
        let field = Field::named(name).filter(|field| FIELDS_OF_SETS.contains(&field.name));
        let field = field.ok_or_else(|| {
            let meant = nearest(name, FIELDS_OF_SETS);
            let meant = meant.map(|meant| format!("; did you mean {meant}?")).unwrap_or_default();
            format!("{name:?} is unknown; a setting has {}{meant}", FIELDS_OF_SETS.join(", "))
        })?;
        if seen.contains(&field.name) {
            return Err(format!("{name} is given twice; leave one out"));
        }
        seen.push(field.name);
        if !(value.eq_ignore_ascii_case("off") && can_be_off(field.name)) {
            field.set(&mut spec, field.read(value).map_err(|error| error.to_string())?);
        }
    }
    Ok(named(spec.into(), &seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use logitd_core::params::Value;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn args(flags: &[&str]) -> Args {
        Cli::try_parse_from([&["tune"], flags].concat()).unwrap().args
    }

    fn refused(flags: &[&str]) -> String {
        Cli::try_parse_from([&["tune"], flags].concat()).unwrap_err().to_string()
    }

    #[test]
    fn an_axis_with_a_flag_of_its_own_is_set_by_that_flag() {
        let profile = FIELDS_OF_SETS.iter().position(|name| *name == "profile");
        assert_eq!(FIELDS_OF_SETS[..profile.expect("a parameter of sets")], OWN_FLAGS);
        for name in OWN_FLAGS {
            let (flag, text) = (format!("--{}", name.replace('_', "-")), "1");
            let mut expected = Axes::default();
            expected.set(name, text).expect("a value of each");
            let others = OWN_FLAGS.into_iter().filter(|other| *other != name);
            let others: Vec<Axes> = others
                .map(|other| {
                    let mut axes = Axes::default();
                    axes.set(other, text).expect("a value of each");
                    axes
                })
                .collect();
            let axes = args(&[&flag, text]).axes().expect("valid");
            assert_eq!(axes, expected, "{flag}");
            assert!(!others.contains(&axes), "{flag}");
        }
    }

    #[test]
    fn goals_and_limits_are_put_together() {
        assert_eq!(args(&[]).goal().to_string(), "least nll with tail <= 0.001");
        let flags =
            ["--minimize", "nll", "--subject-to", "tail<=0.01", "--subject-to", "coverage>=0.9"];
        let said = "least nll with tail <= 0.01 and coverage >= 0.9";
        assert_eq!(args(&flags).goal().to_string(), said);
        assert_eq!(args(&["--maximize", "coverage"]).goal().to_string(), "greatest coverage");
        assert!(refused(&["--minimize", "loss"]).contains("no metric; there are: nll"));
        assert!(refused(&["--subject-to", "tail<1"]).contains("no limit"));
        assert!(refused(&["--goal", "best"]).contains("safe, nll, diverse, brier"));
        assert!(refused(&["--tail-share", "1"]).contains("above 0, below 1"));
        assert!(refused(&["--miss-nats", "-1"]).contains("above 0, up to 4096"));
        assert!(refused(&["--pareto", "nll"]).contains("two metrics are needed"));
        for threads in ["1025", "-1", "x"] {
            let said = refused(&[&format!("--threads={threads}")]);
            assert!(said.contains("allowed: 0 (one for each core) to 1024"), "{said}");
        }
    }

    #[test]
    fn settings_are_read_as_they_are_written() {
        let full = compared("temperature=0.8, top_k=40,top_p=0.95,min_p=0.05").unwrap();
        assert_eq!(full.point, compared("llama.cpp").unwrap().point);
        let off = compared("temperature=0,top_k=off,top_p=OFF,min_p=off").unwrap();
        assert_eq!(off.point, Point { temperature: 0.0, ..Point::PLAIN });
        let plain = compared("top_k=0,top_p=1,min_p=0").unwrap();
        let values =
            [("top_k", Value::Whole(0)), ("top_p", Value::Real(1.0)), ("min_p", Value::Real(0.0))];
        let setting = Setting::new(values);
        assert_eq!((plain.point, plain.setting), (Point::PLAIN, setting));
        let further = compared("temperature=0.7,typical_p=0.9,profile=hf").unwrap();
        assert_eq!(further.point.to_string(), "temperature 0.7, typical_p 0.9, profile hf");
        for (text, part) in [
            ("profile=off", "profile is off; allowed"),
            ("plain", "no name=value and none of llama.cpp, vllm, hf"),
            ("top_k=40,seed=1", "\"seed\" is unknown; a setting has temperature"),
            ("topp=0.5", "did you mean top_p?"),
            ("top_p=1.5", "top_p is 1.5; allowed: above 0, up to 1"),
            ("temperature=off", "temperature is off; allowed"),
            ("top_k=1,top_k=2", "twice"),
        ] {
            let said = compared(text).unwrap_err();
            assert!(said.contains(part), "{text}: {said}");
        }
    }

    #[test]
    fn searches_say_how_many_sets_they_have() {
        let search = |flags: &[&str]| args(flags).search().map_err(|error| error.to_string());
        assert_eq!(search(&[]), Ok(Search::Grid { rounds: 2 }));
        assert_eq!(search(&["--search", "sobol"]), Ok(Search::Sobol(2048)));
        assert_eq!(search(&["--search", "random", "--sets", "7"]), Ok(Search::Random(7)));
        let said = search(&["--search", "sobol", "--sets", "65537"]).unwrap_err();
        assert_eq!(said, "--sets is 65537; allowed: 1 to 65536");
        assert!(
            search(&["--search", "grid", "--sets", "5"]).unwrap_err().contains("random and sobol")
        );
        let flags = ["--axis", "typical_p=off,0.9", "--axis", "top_n_sigma = 1:2:0.5"];
        let axes = args(&flags).axes().unwrap();
        assert_eq!(axes.further.iter().map(|(_, list)| list.len()).collect::<Vec<_>>(), [3, 2]);
        for (axis, part) in [
            ("typical_p", "no NAME=LIST"),
            ("top_p=0.5", "write --top-p LIST"),
            ("typicalp=0.5", "did you mean typical_p?"),
            ("typical_p=0", "--axis typical_p: typical_p is 0; allowed"),
            ("mirostat_tau=5", "is unknown"),
        ] {
            let said = args(&["--axis", axis]).axes().unwrap_err().to_string();
            assert!(said.contains(part), "{axis}: {said}");
        }
        let twice = args(&["--axis", "top_h=off", "--axis", "top_h=0.5"]).axes().unwrap_err();
        assert!(twice.to_string().contains("given twice"), "{twice}");
        let said = args(&["--top-p", "0"]).axes().unwrap_err().to_string();
        assert_eq!(said, "--top-p: top_p is 0; allowed: above 0, up to 1 (1 disables it)");
    }
}
