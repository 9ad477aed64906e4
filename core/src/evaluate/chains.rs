//! Sets with further cuts, or another order of them, as trees of stages: what two sets share up to a stage is cut once.
//!
//! ```text
//! root: a profile, and what its masses are made at
//!     a stage, its parameter          a node; under it the stages that come next
//!         ...
//!             leaf: a node, and the temperature that is drawn at      some sets
//! ```
//!
//! A grid of three values of `typical_p` and 8 of `top_p` has 11 nodes under a root.

use super::places::Places;
use crate::arithmetic::cut::min_p_distance;
use crate::arithmetic::stages::{Profile, Stage};
use crate::params::{Dynatemp, SamplingParams};
use std::collections::HashSet;

/// What the masses of a chain are made at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Heat {
    /// This temperature.
    Fixed(f32),
    /// What the row's entropy makes of it.
    Dynamic(f32, Dynatemp),
}

/// What is drawn at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Drawn {
    /// What the masses of the chain are made at.
    AsCut,
    /// Another temperature; 0 is greedy.
    At(f32),
    /// What the entropy of what the chain left makes of a temperature.
    Dynamic(f32, Dynatemp),
}

/// The chains of one profile whose masses are made at the same.
#[derive(Clone, Debug)]
pub(super) struct Root {
    pub profile: Profile,
    pub heat: Heat,
    /// Parents come before their children.
    pub nodes: Vec<Node>,
    pub leaves: Vec<Leaf>,
    /// Sets by their places in the list, each with that of its leaf.
    pub members: Vec<(usize, usize)>,
    node_places: Places<(Option<usize>, [u32; 3])>,
    leaf_places: Places<(Option<usize>, [u32; 4])>,
}

/// A stage of what the nodes above it left.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    /// `None` where it is the first.
    pub parent: Option<usize>,
    pub step: Step,
}

/// What a chain leaves, and how it is drawn from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Leaf {
    /// The last stage; `None` where there is none.
    pub node: Option<usize>,
    pub drawn: Drawn,
}

/// A stage that is on, with its parameter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Step {
    TopNSigma(f32),
    TopK(u32),
    /// The second is whether its share is one of the whole row.
    TopP(f32, bool),
    /// The second is the distance that it comes to, where the temperature is known.
    MinP(f32, Option<f32>),
    TopH(f32),
    TopA(f32),
    Epsilon(f32),
    Eta(f32),
    Typical(f32),
    /// Its threshold: it always acts.
    Xtc(f32),
}

impl Step {
    /// The stage of a set, if it is on.
    fn of(stage: Stage, params: &SamplingParams, heat: Heat) -> Option<Self> {
        let cuts = params.all_cuts();
        let above = |x: f32, step: fn(f32) -> Self| (x > 0.0).then(|| step(x));
        match stage {
            Stage::TopNSigma => above(cuts.top_n_sigma, Self::TopNSigma),
            Stage::TopK => params.top_k().map(Self::TopK),
            Stage::TopP => params.top_p().map(|p| {
                Self::TopP(p, cuts.profile == Profile::Sglang && params.min_p().is_none())
            }),
            Stage::MinP => params.min_p().map(|p| match heat {
                Heat::Fixed(temperature) => Self::MinP(p, Some(min_p_distance(p, temperature))),
                Heat::Dynamic(..) => Self::MinP(p, None),
            }),
            Stage::TopH => above(cuts.top_h, Self::TopH),
            Stage::TopA => above(cuts.top_a, Self::TopA),
            Stage::Epsilon => above(cuts.epsilon_cutoff, Self::Epsilon),
            Stage::Eta => above(cuts.eta_cutoff, Self::Eta),
            Stage::Typical => (cuts.typical_p < 1.0).then_some(Self::Typical(cuts.typical_p)),
            Stage::Xtc => (cuts.xtc.probability > 0.0).then_some(Self::Xtc(cuts.xtc.threshold)),
            // It belongs to a sequence of draws, and no set has it.
            Stage::Mirostat => None,
        }
    }

    /// The stage that it is.
    pub fn stage(self) -> Stage {
        match self {
            Self::TopNSigma(_) => Stage::TopNSigma,
            Self::TopK(_) => Stage::TopK,
            Self::TopP(..) => Stage::TopP,
            Self::MinP(..) => Stage::MinP,
            Self::TopH(_) => Stage::TopH,
            Self::TopA(_) => Stage::TopA,
            Self::Epsilon(_) => Stage::Epsilon,
            Self::Eta(_) => Stage::Eta,
            Self::Typical(_) => Stage::Typical,
            Self::Xtc(_) => Stage::Xtc,
        }
    }

    /// What tells it from the other steps of a root.
    fn key(self) -> [u32; 3] {
        let (value, more) = match self {
            Self::TopK(k) => (k, 0),
            Self::TopP(p, of_row) => (p.to_bits(), of_row.into()),
            Self::MinP(x, _)
            | Self::TopNSigma(x)
            | Self::TopH(x)
            | Self::TopA(x)
            | Self::Epsilon(x)
            | Self::Eta(x)
            | Self::Typical(x)
            | Self::Xtc(x) => (x.to_bits(), 0),
        };
        [self.stage() as u32, value, more]
    }
}

impl Heat {
    fn key(self) -> [u32; 4] {
        match self {
            Self::Fixed(temperature) => [0, temperature.to_bits(), 0, 0],
            Self::Dynamic(temperature, by) => dynamic_key(temperature, by),
        }
    }
}

impl Drawn {
    fn key(self) -> [u32; 4] {
        match self {
            Self::AsCut => [2, 0, 0, 0],
            Self::At(temperature) => [0, temperature.to_bits(), 0, 0],
            Self::Dynamic(temperature, by) => dynamic_key(temperature, by),
        }
    }
}

fn dynamic_key(temperature: f32, by: Dynatemp) -> [u32; 4] {
    [1, temperature.to_bits(), by.range.to_bits(), by.exponent.to_bits()]
}

/// Every root of some sets.
#[derive(Clone, Debug, Default)]
pub(super) struct Chains {
    roots: Vec<Root>,
    places: Places<([u32; 4], Profile)>,
}

impl Chains {
    /// Whether a set needs a chain: one without further cuts has none, nor has one that takes the first token anyway.
    pub fn need(params: &SamplingParams) -> bool {
        let profile = params.all_cuts().profile;
        params.cuts().is_some() && !(params.is_greedy() && profile != Profile::Llamacpp)
    }

    /// Adds a set by its place in the list.
    pub fn push(&mut self, set: usize, params: &SamplingParams) {
        let (cuts, temperature) = (params.all_cuts(), params.temperature());
        let is_dynamic = cuts.dynatemp.range > 0.0 && temperature > 0.0;
        let (heat, drawn) = match (cuts.profile, is_dynamic) {
            (Profile::Llamacpp, false) => (Heat::Fixed(1.0), Drawn::At(temperature)),
            (Profile::Llamacpp, true) => {
                (Heat::Fixed(1.0), Drawn::Dynamic(temperature, cuts.dynatemp))
            }
            (_, false) => (Heat::Fixed(temperature), Drawn::AsCut),
            (_, true) => (Heat::Dynamic(temperature, cuts.dynatemp), Drawn::AsCut),
        };
        let place = self.places.of((heat.key(), cuts.profile));
        if place == self.roots.len() {
            self.roots.push(Root::new(cuts.profile, heat));
        }
        self.roots[place].push(set, params, drawn);
    }

    /// What is weighed alike stands together.
    pub fn arranged(mut self) -> Self {
        self.roots.sort_by_key(|root| root.heat.key());
        self
    }

    /// The roots.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Whether a stage is any set's.
    pub fn have(&self, stage: Stage) -> bool {
        self.roots.iter().flat_map(|root| &root.nodes).any(|node| node.step.stage() == stage)
    }

    /// How many stages are cut, and what is left drawn, each once for all sets that share it and what comes before.
    pub fn steps(&self) -> usize {
        self.roots.iter().map(|root| root.nodes.len() + root.leaves.len()).sum()
    }

    /// How often a row is weighed for them at most: for what is cut by the same masses, and again for what is drawn from others.
    pub fn weighings(&self) -> usize {
        let of_chains = self.roots.chunk_by(|a, b| a.heat == b.heat).count();
        of_chains + self.roots.iter().map(Root::drawings).sum::<usize>()
    }
}

impl Root {
    fn new(profile: Profile, heat: Heat) -> Self {
        let (node_places, leaf_places) = (Places::default(), Places::default());
        let (nodes, leaves, members) = (Vec::new(), Vec::new(), Vec::new());
        Self { profile, heat, nodes, leaves, members, node_places, leaf_places }
    }

    fn push(&mut self, set: usize, params: &SamplingParams, drawn: Drawn) {
        let mut node = None;
        for &stage in self.profile.stages() {
            let Some(step) = Step::of(stage, params, self.heat) else { continue };
            let place = self.node_places.of((node, step.key()));
            if place == self.nodes.len() {
                self.nodes.push(Node { parent: node, step });
            }
            node = Some(place);
        }
        let leaf = self.leaf_places.of((node, drawn.key()));
        if leaf == self.leaves.len() {
            self.leaves.push(Leaf { node, drawn });
        }
        self.members.push((set, leaf));
    }

    /// How often masses are made that are not those of the chain: once for each temperature where the first token is kept,
    /// since all that is left there begins alike, and once for each leaf where it may not be, or where the temperature depends on
    /// what is left.
    fn drawings(&self) -> usize {
        let mut keep_first = Vec::with_capacity(self.nodes.len());
        for Node { parent, step } in &self.nodes {
            let drops = matches!(step, Step::Typical(_) | Step::Xtc(_));
            keep_first.push(!drops && parent.is_none_or(|parent| keep_first[parent]));
        }
        let mut temperatures = HashSet::new();
        let drawings = self.leaves.iter().filter(|leaf| {
            let keeps_first = leaf.node.is_none_or(|node| keep_first[node]);
            match leaf.drawn {
                Drawn::At(0.0) => false,
                Drawn::At(temperature) if keeps_first => {
                    self.heat != Heat::Fixed(temperature)
                        && temperatures.insert(temperature.to_bits())
                }
                Drawn::AsCut => !keeps_first,
                Drawn::At(_) | Drawn::Dynamic(..) => true,
            }
        });
        drawings.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::ParamsSpec;

    #[test]
    fn what_chains_share_is_one_node() {
        let mut chains = Chains::default();
        let mut set = 0;
        let mut push = |spec: ParamsSpec| {
            let params = spec.parse(|| 0).unwrap();
            assert!(Chains::need(&params));
            chains.push(set, &params);
            set += 1;
        };
        for top_p in [0.5, 0.9] {
            for typical_p in [0.2, 0.4, 0.8] {
                for temperature in [0.5, 1.0] {
                    push(ParamsSpec { temperature, top_p, typical_p, ..Default::default() });
                }
            }
        }
        // What llama.cpp cuts by does not depend on the temperature.
        for temperature in [0.0, 0.5, 1.0] {
            let profile = Profile::Llamacpp;
            push(ParamsSpec { temperature, typical_p: 0.2, profile, ..Default::default() });
        }
        let chains = chains.arranged();
        let counts = chains
            .roots()
            .iter()
            .map(|root| (root.profile, root.nodes.len(), root.leaves.len(), root.members.len()));
        let (own, other) = (Profile::Logitd, Profile::Llamacpp);
        assert_eq!(counts.collect::<Vec<_>>(), [(own, 8, 6, 6), (own, 8, 6, 6), (other, 1, 3, 3)]);
        // Two temperatures to cut at; and typical_p may take the first token from each leaf, of which one is greedy.
        assert_eq!((chains.weighings(), chains.steps()), (2 + 12 + 2, 17 + 15));
        assert!(chains.have(Stage::Typical) && !chains.have(Stage::TopNSigma));
    }

    #[test]
    fn greedy_sets_have_no_chain_but_under_llamacpp() {
        let need = |profile, temperature, top_h| {
            let spec = ParamsSpec { profile, temperature, top_h, ..Default::default() };
            Chains::need(&spec.parse(|| 0).unwrap())
        };
        assert!(!need(Profile::Logitd, 1.0, 0.0) && !need(Profile::Logitd, 0.0, 0.5));
        assert!(need(Profile::Logitd, 1.0, 0.5) && need(Profile::Llamacpp, 0.0, 0.0));
        assert!(need(Profile::Hf, 1.0, 0.0) && !need(Profile::Hf, 0.0, 0.0));
    }
}
