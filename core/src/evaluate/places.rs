//! Numbers for values, by which what is equal is found once.

use std::collections::HashMap;
use std::hash::Hash;

/// A number for each of some values, in the order in which they come.
#[derive(Clone, Debug)]
pub(super) struct Places<K>(HashMap<K, usize>);

impl<K> Default for Places<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Eq + Hash> Places<K> {
    /// The number of a value: the next one where it is new.
    pub fn of(&mut self, value: K) -> usize {
        let next = self.0.len();
        *self.0.entry(value).or_insert(next)
    }
}
