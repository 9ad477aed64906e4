//! Budgets of bytes and rows: what the server, a connection or a token may hold at once.
//!
//! As with the engine's permits, what is asked for is taken at once or refused, and given back when its [`Held`] is dropped.
//! Who would wait for it is told when some is given back ([`Budget::news`]), and asks again.

use super::error::Error;
use metrics::Gauge;
use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// What a refused caller is told to wait. What it would take depends on clients, so there is no better guess.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// What is counted of answers.
pub const ANSWERS: &str = "bytes of answers awaited or unread";

/// The limit on the bytes of a connection's requests.
pub const CONNECTION_BYTES_MAX: &str = "connection_bytes_max";

/// A bound on what is held, and how much that is.
#[derive(Debug)]
pub struct Budget {
    /// Whose it is.
    who: Cow<'static, str>,
    /// What is counted.
    what: &'static str,
    /// The limit's name in `GetInfo` and the configuration.
    name: &'static str,
    limit: usize,
    held: AtomicUsize,
    /// Told whenever some is given back.
    freed: Notify,
    /// Follows what is held, where somebody looks.
    gauge: Gauge,
}

impl Budget {
    /// A budget of which nothing is held.
    pub fn new(
        who: impl Into<Cow<'static, str>>,
        what: &'static str,
        name: &'static str,
        limit: usize,
    ) -> Arc<Self> {
        Self::gauged(who, what, name, limit, Gauge::noop())
    }

    /// The same, with a gauge of what is held.
    pub fn gauged(
        who: impl Into<Cow<'static, str>>,
        what: &'static str,
        name: &'static str,
        limit: usize,
        gauge: Gauge,
    ) -> Arc<Self> {
        let (held, freed) = (AtomicUsize::new(0), Notify::new());
        Arc::new(Self { who: who.into(), what, name, limit, held, freed, gauge })
    }

    /// Takes `amount`, at once or not at all.
    pub fn take(self: &Arc<Self>, amount: usize) -> Result<Held, Error> {
        self.add(amount)?;
        Ok(Held { budget: Arc::clone(self), amount })
    }

    /// Takes `amount` whether or not it fits: for what exists already.
    pub fn charge(self: &Arc<Self>, amount: usize) -> Held {
        self.held.fetch_add(amount, Ordering::Relaxed);
        self.gauge.increment(amount as f64);
        Held { budget: Arc::clone(self), amount }
    }

    fn add(&self, amount: usize) -> Result<(), Error> {
        if amount > self.limit {
            return Err(Error::OverLimit {
                what: self.what,
                value: amount as u64,
                limit: self.limit as u64,
                name: self.name,
                way_out: "send several requests",
            });
        }
        let more = |held: usize| held.checked_add(amount).filter(|&held| held <= self.limit);
        match self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more) {
            Ok(_) => {
                self.gauge.increment(amount as f64);
                Ok(())
            }
            Err(held) => Err(Error::Full {
                who: self.who.clone(),
                what: self.what,
                name: self.name,
                held,
                asked: amount,
                limit: self.limit,
                retry_after: RETRY_AFTER,
            }),
        }
    }

    /// Whether so much more could be taken now.
    pub fn has_room(&self, amount: usize) -> bool {
        let held = self.held.load(Ordering::Relaxed);
        held.checked_add(amount).is_some_and(|held| held <= self.limit)
    }

    /// Resolves when some is given back after this was called.
    pub fn news(&self) -> Notified<'_> {
        self.freed.notified()
    }

    fn give_back(&self, amount: usize) {
        self.held.fetch_sub(amount, Ordering::Relaxed);
        self.freed.notify_waiters();
        self.gauge.decrement(amount as f64);
    }
}

/// A part of a budget, given back when dropped.
#[derive(Debug)]
pub struct Held {
    budget: Arc<Budget>,
    amount: usize,
}

impl Held {
    /// How much.
    pub fn amount(&self) -> usize {
        self.amount
    }

    /// Holds another amount from now on, or what it held. Shrinking is never refused.
    pub fn resize(&mut self, amount: usize) -> Result<(), Error> {
        if amount > self.amount {
            self.budget.add(amount - self.amount)?;
        } else if amount < self.amount {
            self.budget.give_back(self.amount - amount);
        }
        self.amount = amount;
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.budget.give_back(self.amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_stays_within_the_limit_and_is_given_back() {
        let budget = Budget::new("token Ann", "rows", "token_rows_max", 10);
        let mut held = budget.take(6).unwrap();
        let refused = budget.take(5).unwrap_err();
        assert!(matches!(refused, Error::Full { held: 6, asked: 5, limit: 10, .. }), "{refused}");
        assert!(
            refused.to_string().contains("token Ann")
                && refused.to_string().contains("--token-rows-max")
        );
        assert!(held.resize(11).is_err());
        held.resize(10).unwrap();
        held.resize(2).unwrap();
        let rest = budget.take(8).unwrap();
        // What exists is counted, and nothing more is taken until it is gone.
        let beyond = budget.charge(1);
        drop((held, rest));
        assert!(budget.take(10).is_err());
        drop(beyond);
        assert!(budget.take(10).is_ok());
        assert!(matches!(budget.take(11), Err(Error::OverLimit { value: 11, .. })));
    }
}
