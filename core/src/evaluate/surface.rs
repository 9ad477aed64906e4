//! Every set over one digest.
//!
//! ```text
//! surprisals, W1, tail at temperature 1                                      once a row
//! for each temperature: masses of the groups, W before each                  once a temperature
//!     for each top_k, nucleus, floor: how many tokens it keeps               a binary search each
//!     sort these cuts; walk them, with the other sums on the way             once a cut
//!     for each set: the shortest of its cuts                                 a minimum and an addition
//! for each root of the chains: masses, W and E before each group             once for what is weighed alike
//!     for each node: the interval that its stage leaves                      some binary searches each
//!     for each leaf: a temperature, an interval; sort and walk these         once a different one
//! ```
//!
//! What it costs, a row and temperature of a real grid (13,000 groups, 145 cuts, 1,260 sets). Floor: 13,000 groups of 36
//! vector instructions for eight, as in [`intervals`](crate::backend::cpu), 10 us; 145 cuts of some eight divisions and
//! logarithms of 128 bits, 30 us: 28 temperatures and 1,024 rows are 1.2 s. Measured: `cargo test --release --test sampler
//! the_default_grid -- --ignored --nocapture`, which has these rows where their recording lies beside the repository.
//!
//! A *group* is a run of equal logits; a cut that ends within one is a division. What a set comes to is a function of how
//! many tokens it keeps, so it is worked out once a cut, of which a grid has a tenth or less as many as sets.
//!
//! Sets with further cuts are [`chains`](super::chains): what they keep is an interval, which may begin after the first
//! token. Their masses are then made anew, relative to the first that is kept.

use super::chains::{Chains, Drawn, Heat, Root};
use super::digest::Digest;
use super::masses::{Cut, Found, Masses, RowSums, Walk, deviation};
use super::sets::{Sets, Temperature};
use super::stages::Cutting;
use super::{Reference, TailShare};
use crate::arithmetic::cut::top_p_target;
use crate::arithmetic::deviation::Deviation;
use crate::arithmetic::dynatemp;
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::Scale;
use crate::arithmetic::stages::Stage;
use crate::backend::cpu::Isa;
use crate::params::Dynatemp;
use crate::status::RowStatus;
use std::ops::Range;

/// Evaluates digests, in memory that it keeps.
#[derive(Debug)]
pub(super) struct Surface {
    isa: Isa,
    row: RowSums,
    masses: Masses,
    cuts: Vec<Cut>,
    /// The place of each cut, or leaf, among those in ascending order, and what it comes to.
    places: Vec<u32>,
    order: Vec<u32>,
    found: Vec<Found>,
    /// What is left by each node of a root.
    left: Vec<Range<u32>>,
    asks: Vec<Ask>,
    /// Masses that are drawn from, where they are not those that were cut by.
    drawn: Masses,
}

/// What is drawn from: an interval of the order, at a temperature.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ask {
    /// 0 is greedy.
    temperature: f32,
    start: u32,
    end: u32,
}

impl Surface {
    /// With these instructions, which this machine has.
    pub fn new(isa: Isa) -> Self {
        Self {
            isa,
            row: RowSums::default(),
            masses: Masses::default(),
            cuts: Vec::new(),
            places: Vec::new(),
            order: Vec::new(),
            found: Vec::new(),
            left: Vec::new(),
            asks: Vec::new(),
            drawn: Masses::default(),
        }
    }

    /// Takes up a row: what is said of it whatever the sets are.
    pub fn take(&mut self, digest: &Digest, tail: TailShare) -> Reference {
        self.row.take(self.isa, digest, tail);
        let (max, whole) = (digest.values()[0], self.row.whole);
        let x = self.row.reference.map_or(f32::NEG_INFINITY, |(_, x)| x);
        Reference {
            status: RowStatus::Ok,
            rank: digest.rank(),
            logprob: logprob(x, max, Scale::new(1.0), whole.mass),
            entropy: nats(whole.entropy()),
        }
    }

    /// What each set comes to over the row that was taken up. `pause` is called about every 100 us.
    pub fn each(
        &mut self,
        digest: &Digest,
        sets: &Sets,
        pause: impl Fn(),
        mut see: impl FnMut(usize, &Found),
    ) {
        for temperature in sets.temperatures() {
            match temperature.scale {
                Some(scale) => {
                    self.cut(digest, temperature, scale);
                    self.walk(digest, temperature);
                }
                None => self.greedy(digest, temperature),
            }
            let (nuclei, floors) =
                (temperature.top_k.len(), temperature.top_k.len() + temperature.nuclei.len());
            for member in &temperature.members {
                let mut place = self.places[member.top_k];
                if let Some(nucleus) = member.nucleus {
                    place = place.min(self.places[nuclei + nucleus]);
                }
                if let Some(floor) = member.floor {
                    place = place.min(self.places[floors + floor]);
                }
                see(member.set, &self.found[place as usize]);
            }
            pause();
        }
        self.chains(digest, sets.chains(), pause, see);
    }

    /// The same of sets with further cuts.
    fn chains(
        &mut self,
        digest: &Digest,
        chains: &Chains,
        pause: impl Fn(),
        mut see: impl FnMut(usize, &Found),
    ) {
        let deviation = chains.have(Stage::TopNSigma).then(|| deviation(digest));
        let mut weighed = None;
        for root in chains.roots() {
            let temperature = match root.heat {
                Heat::Fixed(temperature) => temperature,
                Heat::Dynamic(temperature, by) => {
                    dynamic(temperature, by, self.row.tokens().into(), || self.row.whole)
                }
            };
            if weighed != Some(temperature) {
                weighed = Some(temperature);
                let groups = 0..digest.values().len();
                self.masses.weigh(self.isa, digest, groups, Scale::new(temperature));
                self.masses.sum_terms(digest);
            }
            self.ask(digest, root, temperature, deviation);
            self.draw(digest, temperature, &pause);
            for &(set, leaf) in &root.members {
                see(set, &self.found[self.places[leaf] as usize]);
            }
            pause();
        }
    }

    /// Finds what each node of a root leaves, and what each leaf asks for.
    fn ask(
        &mut self,
        digest: &Digest,
        root: &Root,
        temperature: f32,
        deviation: Option<Deviation>,
    ) {
        let cutting = Cutting {
            values: digest.values(),
            row: &self.row,
            masses: &self.masses,
            temperature,
            profile: root.profile,
            deviation,
        };
        let whole = 0..self.row.tokens();
        let left = |nodes: &[Range<u32>], node: Option<usize>| {
            node.map_or(whole.clone(), |node| nodes[node].clone())
        };
        self.left.clear();
        for node in &root.nodes {
            let own = cutting.cut(node.step, left(&self.left, node.parent));
            self.left.push(own);
        }
        self.asks.clear();
        for leaf in &root.leaves {
            let Range { start, end } = left(&self.left, leaf.node);
            let temperature = match leaf.drawn {
                Drawn::AsCut => temperature,
                Drawn::At(temperature) => temperature,
                // The chain was weighed at 1.
                Drawn::Dynamic(temperature, by) => {
                    dynamic(temperature, by, (end - start).into(), || cutting.sums(start..end))
                }
            };
            self.asks.push(Ask { temperature, start, end });
        }
    }

    /// Goes through what is asked for, by temperature and by where it begins and ends, summing up what lies between.
    fn draw(&mut self, digest: &Digest, of_chain: f32, pause: &impl Fn()) {
        let Self { isa, row, masses, asks, order, places, found, drawn, .. } = self;
        order.clear();
        order.extend(0..asks.len() as u32);
        order.sort_unstable_by_key(|&i| asks[i as usize].key());
        places.resize(asks.len(), 0);
        found.clear();
        let (mut last, mut weighed) = (None::<Ask>, None);
        let (mut walk, mut group) = (Walk::default(), 0);
        for (at, &i) in order.iter().enumerate() {
            let ask = asks[i as usize];
            if last != Some(ask) {
                if ask.temperature == 0.0 {
                    found.push(row.greedy(digest, ask.start));
                } else {
                    let is_whole = ask.start == 0 && ask.temperature == of_chain;
                    let first = row.group(ask.start);
                    if !is_whole && weighed != Some((ask.temperature, first)) {
                        weighed = Some((ask.temperature, first));
                        let alike =
                            order[at..].iter().map(|&i| &asks[i as usize]).take_while(|other| {
                                other.temperature == ask.temperature
                                    && other.start < row.first[first + 1]
                            });
                        let end = alike.map(|other| other.end).max().expect("its own");
                        let groups = first..row.group(end - 1) + 1;
                        drawn.weigh(*isa, digest, groups, Scale::new(ask.temperature));
                        pause();
                    }
                    let masses = if is_whole { &*masses } else { &*drawn };
                    let goes_on = last.is_some_and(|last| {
                        (last.temperature, last.start) == (ask.temperature, ask.start)
                    });
                    if !goes_on {
                        (walk, group) = (Walk::from(ask.start), first);
                    }
                    let sums = walk.over(ask.end, row, masses, &mut group);
                    found.push(sums.found(digest, row, masses, ask.temperature));
                }
                last = Some(ask);
            }
            places[i as usize] = found.len() as u32 - 1;
        }
    }

    /// Weighs the groups and finds every cut.
    fn cut(&mut self, digest: &Digest, temperature: &Temperature, scale: Scale) {
        let groups = 0..digest.values().len();
        self.masses.weigh(self.isa, digest, groups, scale);
        let (values, first, masses) = (digest.values(), &self.row.first, &self.masses);
        let max = values[0];
        let n_all = first[values.len()];
        self.cuts.clear();
        self.cuts.extend(temperature.top_k.iter().map(|&k| self.row.at(k.min(n_all))));
        for &(top_k, fraction) in &temperature.nuclei {
            let whole = masses.up_to(self.cuts[top_k]);
            let target = top_p_target(fraction, whole);
            let group = masses.before[1..].partition_point(|&mass| mass < target);
            let part = (target - masses.before[group]).div_ceil(masses.own.mass[group]) as u32;
            self.cuts.push(Cut { kept: first[group] + part, group, part });
        }
        for &least in &temperature.floors {
            let group = values.partition_point(|&x| x - max >= least);
            self.cuts.push(Cut { kept: first[group], group, part: 0 });
        }
        self.order.clear();
        self.order.extend(0..self.cuts.len() as u32);
        self.order.sort_unstable_by_key(|&i| self.cuts[i as usize].kept);
        self.places.resize(self.cuts.len(), 0);
        for (place, &cut) in self.order.iter().enumerate() {
            self.places[cut as usize] = place as u32;
        }
    }

    /// Goes through the cuts by what they keep, summing up what lies between them.
    fn walk(&mut self, digest: &Digest, temperature: &Temperature) {
        self.found.clear();
        let (row, masses) = (&self.row, &self.masses);
        let (mut walk, mut group) = (Walk::from(0), 0);
        let mut last = None;
        for &i in &self.order {
            let kept = self.cuts[i as usize].kept;
            if last == Some(kept) {
                self.found.push(self.found[self.found.len() - 1]);
                continue;
            }
            last = Some(kept);
            let sums = walk.over(kept, row, masses, &mut group);
            self.found.push(sums.found(digest, row, masses, temperature.temperature));
        }
    }

    /// Whatever the cuts, the first token.
    fn greedy(&mut self, digest: &Digest, temperature: &Temperature) {
        let cuts = temperature.top_k.len() + temperature.nuclei.len() + temperature.floors.len();
        self.places.clear();
        self.places.resize(cuts, 0);
        self.found.clear();
        self.found.push(self.row.greedy(digest, 0));
    }
}

impl Ask {
    /// The bits of temperatures, none of which is below 0, have their order.
    fn key(self) -> (u32, u32, u32) {
        (self.temperature.to_bits(), self.start, self.end)
    }
}

/// The temperature that some tokens, of these sums at 1, make of one.
fn dynamic(
    temperature: f32,
    Dynatemp { range, exponent }: Dynatemp,
    count: u64,
    sums: impl FnOnce() -> Interval,
) -> f32 {
    // Of a lone token the temperature stays.
    let entropy = if count < 2 { 0 } else { sums().entropy() };
    dynatemp::temperature(temperature, range, exponent, count, entropy)
}

#[cfg(test)]
mod tests {
    use super::super::digest::Digester;
    use super::*;
    use crate::arithmetic::stages::Profile;
    use crate::batch::{Dtype, Row};
    use crate::params::ParamsSpec;

    /// How often a row is weighed for these sets, and how often it is said to be at most.
    fn weighings(logits: &[f32], specs: &[ParamsSpec]) -> [usize; 2] {
        let parsed = |spec: &ParamsSpec| spec.parse(|| 0).expect("valid");
        let sets = Sets::new(specs.iter().map(parsed).collect()).expect("sets");
        let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = Row::new(Dtype::F32, &bytes, parsed(&ParamsSpec::DEFAULT)).expect("a row");
        let digest = Digester::default().digest(&row, 3).expect("tokens");
        let mut surface = Surface::new(Isa::detect());
        surface.take(&digest, TailShare::default());
        let mut seen = 0;
        surface.each(&digest, &sets, || {}, |_, _| seen += 1);
        assert_eq!(seen, specs.len());
        [surface.masses.weighings + surface.drawn.weighings, sets.temperature_count()]
    }

    #[test]
    fn rows_are_weighed_as_often_as_is_charged_at_most() {
        let spread = |i: usize| ((i * 7919) % 3000) as f32;
        let flat: Vec<f32> = (0..3000).map(|i| spread(i) / 3e6).collect();
        let peaked: Vec<f32> = (0..3000).map(|i| spread(i) / -100.0).collect();
        let off = ParamsSpec::DEFAULT;
        let llamacpp = ParamsSpec { profile: Profile::Llamacpp, ..off };
        let hf = ParamsSpec { profile: Profile::Hf, ..off };
        type Set<'a> = &'a dyn Fn(f32) -> ParamsSpec;
        let kinds: [(&str, Set<'_>, bool); 9] = [
            ("plain", &|x| ParamsSpec { temperature: x, top_p: 0.9, ..off }, true),
            ("llamacpp", &|x| ParamsSpec { temperature: x, top_p: 0.9, ..llamacpp }, true),
            ("llamacpp top_p", &|x| ParamsSpec { top_p: x, temperature: 0.5, ..llamacpp }, true),
            ("llamacpp typical_p", &|x| ParamsSpec { typical_p: x, ..llamacpp }, false),
            ("llamacpp dynatemp", &|x| ParamsSpec { dynatemp_range: x, ..llamacpp }, false),
            ("hf", &|x| ParamsSpec { temperature: x, ..hf }, true),
            ("dynatemp", &|x| ParamsSpec { dynatemp_range: x, ..off }, false),
            (
                "xtc",
                &|x| ParamsSpec { xtc_probability: 1.0, xtc_threshold: x / 100.0, ..off },
                false,
            ),
            ("typical_p", &|x| ParamsSpec { typical_p: x, temperature: x, ..off }, false),
        ];
        for (kind, of, is_exact) in kinds {
            for count in [1, 9] {
                let specs: Vec<ParamsSpec> = (1..=count).map(|i| of(i as f32 / 10.0)).collect();
                let [on_flat, charged] = weighings(&flat, &specs);
                let [on_peaked, _] = weighings(&peaked, &specs);
                let most = on_flat.max(on_peaked);
                assert!(most <= charged, "{kind}: {most} of {charged}");
                assert!(!is_exact || most == charged, "{kind}: {most} of {charged}");
            }
        }
    }
}
