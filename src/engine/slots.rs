//! Values in one vector, with keys that stay valid while their value is in and never name another one
//! afterwards.

/// Names a value. Outlives it harmlessly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    /// How often the slot had been emptied before.
    generation: u32,
}

#[derive(Debug)]
pub(super) struct Slots<T> {
    slots: Vec<Slot<T>>,
    /// Empty slots.
    free: Vec<u32>,
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    generation: u32,
}

impl<T> Slots<T> {
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    pub fn insert(&mut self, value: T) -> Key {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { value: None, generation: 0 });
            self.slots.len() as u32 - 1
        });
        let slot = &mut self.slots[index as usize];
        slot.value = Some(value);
        Key { index, generation: slot.generation }
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        if slot.generation != key.generation {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index);
        Some(value)
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.value.as_ref()?)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.value.as_mut()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_key_names_its_value_and_no_other(
            ops in proptest::collection::vec(proptest::option::of(0..64usize), 0..100),
        ) {
            let mut slots = Slots::new();
            // Every key ever given, with whether its value is still in.
            let mut model: Vec<(Key, bool)> = Vec::new();
            for op in ops {
                let n = model.len();
                match op {
                    Some(i) if n > 0 => {
                        let (key, is_in) = model[i % n];
                        prop_assert_eq!(slots.remove(key), is_in.then_some(i % n));
                        model[i % n].1 = false;
                    }
                    _ => model.push((slots.insert(n), true)),
                }
                for (n, &(key, is_in)) in model.iter().enumerate() {
                    prop_assert_eq!(slots.get(key), is_in.then_some(&n));
                }
            }
        }
    }
}
