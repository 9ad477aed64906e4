//! Every set over one digest.
//!
//! ```text
//! surprisals, W1, tail at temperature 1                                      once a row
//! for each temperature: masses of the groups, W before each                  once a temperature
//!     for each top_k, nucleus, floor: how many tokens it keeps               a binary search each
//!     sort these cuts; walk them, with the other sums on the way             once a cut
//!     for each set: the shortest of its cuts                                 a minimum and an addition
//! ```
//!
//! What it costs, a row and temperature of a real grid (13,000 groups, 145 cuts, 1,260 sets). Floor: 13,000 groups of 36
//! vector instructions for eight, as in [`intervals`](crate::backend::cpu), 10 us; 145 cuts of some eight divisions and
//! logarithms of 128 bits, 30 us: 28 temperatures and 1,024 rows are 1.2 s. Measured: `cargo test --release --test sampler
//! the_default_grid -- --ignored --nocapture`, which has these rows where their recording lies beside the repository.
//!
//! A *group* is a run of equal logits; a cut that ends within one is a division. What a set comes to is a function of how
//! many tokens it keeps, so it is worked out once a cut, of which a grid has a tenth or less as many as sets.

use super::digest::Digest;
use super::sets::{Sets, Temperature};
use super::sums::{LOGPROB_Q32_MIN, SetSums, collision};
use super::{Evaluation, Reference, TailShare};
use crate::arithmetic::cut::top_p_target;
use crate::arithmetic::fraction::{q64, share};
use crate::arithmetic::interval::{Interval, nats};
use crate::arithmetic::log2::log2_mass;
use crate::arithmetic::logprob::logprob;
use crate::arithmetic::mass::{Scale, UNIT};
use crate::arithmetic::score::score;
use crate::arithmetic::surprisal::surprisal;
use crate::backend::cpu::{Isa, SurprisalSlices, surprisals};
use crate::status::RowStatus;

/// Groups from this surprisal on have neither mass nor term (units of 2^-22 bit): see
/// [`surprisal`](crate::arithmetic::surprisal), whose mantissa times surprisal is below 2^53 here.
const NOTHING_FROM: u32 = 54 << 22;

/// Evaluates digests, in memory that it keeps.
#[derive(Debug)]
pub(super) struct Surface {
    isa: Isa,
    row: RowSums,
    masses: Masses,
    cuts: Vec<Cut>,
    /// The place of each cut among those in ascending order, and what it comes to.
    places: Vec<u32>,
    order: Vec<u32>,
    found: Vec<SetSums>,
    kept_masses: Vec<u64>,
}

/// What is said of a row at temperature 1.
#[derive(Debug, Default)]
struct RowSums {
    /// Tokens before each group, and all.
    first: Vec<u32>,
    /// Mass, surprisal and term of each group.
    raw: Surprisals,
    whole: Interval,
    /// The first group of the tail.
    tail_from: usize,
    /// The reference's logit; `None` where it is -inf.
    reference: Option<(usize, f32)>,
}

/// The groups of a row at a temperature, up to the last that has mass or term.
#[derive(Debug, Default)]
struct Masses {
    own: Surprisals,
    /// The mass before each group, and all.
    before: Vec<u64>,
}

/// A [`Surprisal`](crate::arithmetic::surprisal::Surprisal) a group, field by field.
#[derive(Debug, Default)]
struct Surprisals {
    mass: Vec<u64>,
    g: Vec<u32>,
    term: Vec<u64>,
}

/// So many first tokens: all of the groups before one, and a part of that.
#[derive(Clone, Copy, Debug, Default)]
struct Cut {
    kept: u32,
    group: usize,
    part: u32,
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
            kept_masses: Vec::new(),
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

    /// What each set comes to over the row that was taken up.
    pub fn each(
        &mut self,
        digest: &Digest,
        sets: &Sets,
        mut see: impl FnMut(usize, &SetSums, u64),
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
                see(member.set, &self.found[place as usize], self.kept_masses[place as usize]);
            }
        }
    }

    /// Weighs the groups and finds every cut.
    fn cut(&mut self, digest: &Digest, temperature: &Temperature, scale: Scale) {
        self.masses.weigh(self.isa, digest, scale);
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
        self.kept_masses.clear();
        let (row, masses) = (&self.row, &self.masses);
        let mut walk = Walk::default();
        let mut last = None;
        for &i in &self.order {
            let cut = self.cuts[i as usize];
            if last == Some(cut.kept) {
                self.found.push(self.found[self.found.len() - 1]);
                self.kept_masses.push(self.kept_masses[self.kept_masses.len() - 1]);
                continue;
            }
            last = Some(cut.kept);
            // A whole group at the end of a cut may be told as a part of it.
            while walk.group < cut.group.min(masses.own.mass.len()) {
                let group = walk.group;
                walk.add(row, masses, group, digest.counts()[group]);
                walk.group += 1;
            }
            let mut sums = walk;
            if cut.part > 0 && cut.group < masses.own.mass.len() {
                sums.add(row, masses, cut.group, cut.part);
            }
            self.found.push(sums.found(digest, row, masses, temperature.temperature, cut.kept));
            self.kept_masses.push(sums.interval.mass);
        }
    }

    /// Whatever the cuts, the first token.
    fn greedy(&mut self, digest: &Digest, temperature: &Temperature) {
        let cuts = temperature.top_k.len() + temperature.nuclei.len() + temperature.floors.len();
        self.places.clear();
        self.places.resize(cuts, 0);
        let hit = u64::from(digest.rank() == 0);
        self.kept_masses.clear();
        self.kept_masses.push(UNIT);
        self.found.clear();
        self.found.push(SetSums {
            hits: hit,
            kept: 1,
            logprob_q32: 0,
            probability_q32: hit << 32,
            entropy_q32: 0,
            surprise_q32: log2_mass(self.row.whole.mass) as u64,
            collision_q32: 1 << 32,
            tail_q32: if self.row.tail_from == 0 { 1 << 32 } else { 0 },
        });
    }

    /// What a set comes to over the row that was taken up.
    pub fn evaluation(
        digest: &Digest,
        temperature: f32,
        found: &SetSums,
        kept_mass: u64,
    ) -> Evaluation {
        let logprob = (found.hits > 0).then(|| {
            if temperature == 0.0 {
                return 0.0;
            }
            let x = reference_of(digest).map_or(f32::NEG_INFINITY, |(_, x)| x);
            logprob(x, digest.values()[0], Scale::new(temperature), kept_mass)
        });
        Evaluation { kept: found.kept as u32, kept_mass, logprob }
    }
}

/// The group of the reference, and its logit; `None` where it is at -inf.
fn reference_of(digest: &Digest) -> Option<(usize, f32)> {
    let mut before = 0;
    let group = digest.counts().iter().position(|&count| {
        before += count;
        digest.rank() < before
    })?;
    Some((group, digest.values()[group]))
}

impl RowSums {
    fn take(&mut self, isa: Isa, digest: &Digest, tail: TailShare) {
        let (values, counts) = (digest.values(), digest.counts());
        self.first.clear();
        let mut tokens = 0;
        for &count in counts {
            self.first.push(tokens);
            tokens += count;
        }
        self.first.push(tokens);

        let scale = Scale::new(1.0);
        let Surprisals { mass, g, term } = &mut self.raw;
        weigh(isa, values, values[0], scale, mass, g, term);
        self.whole = Interval::default();
        for ((&mass, &term), &count) in mass.iter().zip(&*term).zip(counts) {
            self.whole.mass += mass * u64::from(count);
            self.whole.term += term * u64::from(count);
        }
        let least = share(q64(tail.get()), self.whole.mass);
        self.tail_from = mass.partition_point(|&mass| mass >= least);
        self.reference = reference_of(digest);
    }

    /// So many first tokens, 1 or more and not more than there are.
    fn at(&self, kept: u32) -> Cut {
        let group = self.first.partition_point(|&first| first < kept) - 1;
        Cut { kept, group, part: kept - self.first[group] }
    }
}

fn weigh(
    isa: Isa,
    x: &[f32],
    max: f32,
    scale: Scale,
    mass: &mut Vec<u64>,
    g: &mut Vec<u32>,
    term: &mut Vec<u64>,
) {
    mass.resize(x.len(), 0);
    g.resize(x.len(), 0);
    term.resize(x.len(), 0);
    surprisals(isa, x, max, scale, SurprisalSlices { mass, g, term });
}

impl Masses {
    fn weigh(&mut self, isa: Isa, digest: &Digest, scale: Scale) {
        let (values, max) = (digest.values(), digest.values()[0]);
        let live = values.partition_point(|&x| surprisal(x, max, scale).g < NOTHING_FROM);
        let Surprisals { mass, g, term } = &mut self.own;
        weigh(isa, &values[..live], max, scale, mass, g, term);
        self.before.clear();
        self.before.push(0);
        let mut before = 0;
        for (&mass, &count) in mass.iter().zip(digest.counts()) {
            before += mass * u64::from(count);
            self.before.push(before);
        }
    }

    fn up_to(&self, cut: Cut) -> u64 {
        match self.own.mass.get(cut.group) {
            Some(mass) => self.before[cut.group] + mass * u64::from(cut.part),
            None => self.before[self.own.mass.len()],
        }
    }
}

/// The sums over the first tokens.
#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// The groups that are summed wholly: those before this one.
    group: usize,
    interval: Interval,
    /// Mass times the surprisal at temperature 1.
    surprise: u128,
    /// The squares of the masses.
    squares: u128,
    /// The mass of the tail.
    tail: u64,
}

impl Walk {
    #[inline]
    fn add(&mut self, row: &RowSums, masses: &Masses, group: usize, count: u32) {
        let mass = masses.own.mass[group];
        let all = mass * u64::from(count);
        self.interval.mass += all;
        self.interval.term += masses.own.term[group] * u64::from(count);
        self.surprise += u128::from(all) * u128::from(row.raw.g[group]);
        self.squares += u128::from(all) * u128::from(mass);
        if group >= row.tail_from {
            self.tail += all;
        }
    }

    fn found(
        &self,
        digest: &Digest,
        row: &RowSums,
        masses: &Masses,
        temperature: f32,
        kept: u32,
    ) -> SetSums {
        let whole = self.interval.mass;
        let share = |mass: u64| ((u128::from(mass) << 32) / u128::from(whole)) as u64;
        let mut sums = SetSums {
            kept: kept.into(),
            entropy_q32: self.interval.entropy(),
            surprise_q32: log2_mass(row.whole.mass) as u64
                + ((self.surprise << 10) / u128::from(whole)) as u64,
            collision_q32: collision(self.squares, whole),
            tail_q32: share(self.tail),
            ..Default::default()
        };
        if let Some((group, x)) = row.reference.filter(|_| digest.rank() < kept) {
            sums.hits = 1;
            let logprob = score(x - digest.values()[0], temperature, whole);
            sums.logprob_q32 = logprob.max(LOGPROB_Q32_MIN);
            sums.probability_q32 = share(masses.own.mass.get(group).copied().unwrap_or(0));
        }
        sums
    }
}
