//! From a case that fails to a small one that still does.

use super::Case;
use super::case::{pack, pattern, spec};
use logitd_core::params::ParamsSpec;

/// How often the failing property may be tried.
const TRIES_MAX: usize = 2000;

/// The smallest case found for which `fails` holds; it holds for `case`. First tokens are left out, by
/// halves, then quarters and so on; then parameters are turned off; then logits are made plain.
pub fn smallest(case: &Case, fails: impl FnMut(&Case) -> bool) -> Case {
    let mut search = Search { best: case.clone(), tries: 0, fails };
    let mut size = usize::MAX;
    while search.tries < TRIES_MAX && search.cost() < size {
        size = search.cost();
        search.drop_tokens();
        search.simplify_params();
        search.simplify_logits();
    }
    search.best
}

struct Search<F> {
    best: Case,
    tries: usize,
    fails: F,
}

impl<F: FnMut(&Case) -> bool> Search<F> {
    /// Tokens count most, then distinct values.
    fn cost(&self) -> usize {
        let mut distinct = self.best.patterns();
        distinct.sort_unstable();
        distinct.dedup();
        self.best.vocab_size() * 1000 + distinct.len()
    }

    fn accept(&mut self, case: Case) -> bool {
        self.tries += 1;
        let fails = self.tries <= TRIES_MAX && (self.fails)(&case);
        if fails {
            self.best = case;
        }
        fails
    }

    fn accept_patterns(&mut self, patterns: &[u32]) -> bool {
        if self.best.draft.as_ref().is_some_and(|draft| !draft.fits(patterns.len() as u32)) {
            return false;
        }
        let logits = pack(self.best.dtype, patterns);
        self.accept(Case { logits, ..self.best.clone() })
    }

    fn accept_spec(&mut self, change: impl FnOnce(&mut ParamsSpec)) -> bool {
        let mut spec = spec(&self.best.params);
        change(&mut spec);
        spec.parse(|| 0)
            .is_ok_and(|params| params != self.best.params && self.accept(self.best.with(params)))
    }

    fn drop_tokens(&mut self) {
        let mut chunk = self.best.vocab_size() / 2;
        while chunk > 0 && self.tries < TRIES_MAX {
            let mut start = 0;
            while start < self.best.vocab_size() && self.best.vocab_size() > chunk {
                let mut patterns = self.best.patterns();
                let end = (start + chunk).min(patterns.len());
                patterns.drain(start..end);
                if !self.accept_patterns(&patterns) {
                    start += chunk;
                }
            }
            chunk /= 2;
        }
    }

    fn simplify_params(&mut self) {
        self.accept_spec(|s| s.top_p = 1.0);
        self.accept_spec(|s| s.min_p = 0.0);
        self.accept_spec(|s| s.top_k = 0);
        self.accept_spec(|s| s.draws = 1);
        self.accept_spec(|s| s.temperature = 1.0);
        self.accept_spec(|s| s.position = 0);
        self.accept_spec(|s| s.seed = Some(0));
        while self.accept_spec(|s| s.draws = (s.draws / 2).max(1)) {}
        while self.accept_spec(|s| s.top_k /= 2) {}
        let aligned = self.best.clone().at(0);
        if self.best.offset > 0 {
            self.accept(aligned);
        }
    }

    /// Chunks of logits, halving, each as one plain value if that still fails.
    fn simplify_logits(&mut self) {
        let plain = [0.0, -1.0, f32::NEG_INFINITY].map(|x| pattern(self.best.dtype, x));
        let mut chunk = self.best.vocab_size();
        while chunk > 0 && self.tries < TRIES_MAX {
            for start in (0..self.best.vocab_size()).step_by(chunk) {
                let patterns = self.best.patterns();
                let end = (start + chunk).min(patterns.len());
                if patterns[start..end].iter().all(|p| plain.contains(p)) {
                    continue;
                }
                let with = |value| {
                    let mut patterns = patterns.clone();
                    patterns[start..end].fill(value);
                    patterns
                };
                let _ = plain.iter().any(|&value| self.accept_patterns(&with(value)));
            }
            chunk /= 2;
        }
    }
}
