//! What is timed: the parameters of `logitd bench`, and penalties.

use logitd_core::params::ParamsSpec;

/// The key of every draw of logitd and of others: the same tokens each time, where a sampler lets itself be seeded.
pub const SEED: u64 = 10;
/// Tokens of a history.
const HISTORY_TOKENS: usize = 256;

/// Parameters, and the tokens that came before.
pub struct Case {
    /// The name used by flags and reports.
    pub name: &'static str,
    /// What is asked for, in logitd's words.
    pub params: ParamsSpec,
    /// Tokens that are penalised, oldest first; none where there are no penalties.
    pub history: Vec<u32>,
}

impl Case {
    /// Greedy, which all samplers have to agree about.
    pub fn greedy() -> Self {
        Self::of("greedy", |params| params.temperature = 0.0)
    }

    /// Temperature 0.8, and what else is set.
    fn of(name: &'static str, set: impl FnOnce(&mut ParamsSpec)) -> Self {
        let mut params = ParamsSpec { temperature: 0.8, seed: Some(SEED), ..ParamsSpec::default() };
        set(&mut params);
        Self { name, params, history: vec![] }
    }

    /// top_k 50, top_p 0.95 after a history that is made of these tokens.
    fn after(name: &'static str, tokens: &[u32], set: impl FnOnce(&mut ParamsSpec)) -> Self {
        let history = tokens.iter().copied().cycle().take(HISTORY_TOKENS).collect();
        let case = Self::of(name, |params| {
            (params.top_k, params.top_p, params.repetition_penalty) = (50, 0.95, 1.1);
            set(params);
        });
        Self { history, ..case }
    }

    /// Every case, in the order of the report. Histories are made of the likeliest token of each row.
    pub fn all(likeliest: &[u32]) -> Vec<Self> {
        vec![
            Self::greedy(),
            Self::of("temperature", |_| ()),
            Self::of("top_k", |params| params.top_k = 50),
            Self::of("top_p", |params| params.top_p = 0.95),
            Self::of("top_k_top_p", |params| (params.top_k, params.top_p) = (50, 0.95)),
            Self::of("min_p", |params| params.min_p = 0.05),
            Self::of("top_n_sigma", |params| params.top_n_sigma = 1.0),
            Self::of("typical_p", |params| params.typical_p = 0.95),
            Self::of("xtc", |params| (params.min_p, params.xtc_probability) = (0.02, 1.0)),
            Self::after("repetition", likeliest, |_| ()),
            Self::after("penalties", likeliest, |params| {
                (params.frequency_penalty, params.presence_penalty) = (0.2, 0.2);
            }),
        ]
    }

    /// Whether it has a cut beyond top_k, top_p and min_p.
    pub fn has_further_cuts(&self) -> bool {
        let ParamsSpec { top_n_sigma, typical_p, xtc_probability, .. } = self.params;
        top_n_sigma > 0.0 || typical_p < 1.0 || xtc_probability > 0.0
    }

    /// Whether it penalises tokens by how often they came before.
    pub fn counts(&self) -> bool {
        self.params.frequency_penalty != 0.0 || self.params.presence_penalty != 0.0
    }
}
