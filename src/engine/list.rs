//! A few linked lists in one vector: adding, removing and moving anywhere in constant time, with keys
//! that stay valid while their value is in and never name another one afterwards.

/// Names a value. Outlives it harmlessly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    index: u32,
    /// How often the slot had been emptied before.
    generation: u32,
}

/// No slot.
const NIL: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Lists<T, const N: usize> {
    slots: Vec<Slot<T>>,
    /// The first empty slot; `next` leads to the others.
    free: u32,
    ends: [Ends; N],
}

#[derive(Debug)]
struct Slot<T> {
    value: Option<T>,
    generation: u32,
    list: usize,
    prev: u32,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    front: u32,
    back: u32,
}

impl<T, const N: usize> Lists<T, N> {
    pub fn new() -> Self {
        Self { slots: Vec::new(), free: NIL, ends: [Ends { front: NIL, back: NIL }; N] }
    }

    pub fn push_back(&mut self, list: usize, value: T) -> Key {
        let index = self.fill(list, value);
        self.link_back(index);
        self.key(index)
    }

    pub fn push_front(&mut self, list: usize, value: T) -> Key {
        let index = self.fill(list, value);
        self.link_front(index);
        self.key(index)
    }

    pub fn remove(&mut self, key: Key) -> Option<T> {
        self.get(key)?;
        self.unlink(key.index);
        let free = self.free;
        self.free = key.index;
        let slot = self.slot(key.index);
        slot.next = free;
        slot.generation = slot.generation.wrapping_add(1);
        slot.value.take()
    }

    /// Does nothing if there is no such value.
    pub fn move_to_back(&mut self, key: Key) {
        if self.get(key).is_some() {
            self.unlink(key.index);
            self.link_back(key.index);
        }
    }

    pub fn get(&self, key: Key) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.value.as_ref()?)
    }

    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index as usize)?;
        (slot.generation == key.generation).then_some(slot.value.as_mut()?)
    }

    pub fn front(&self, list: usize) -> Option<Key> {
        self.at(self.ends[list].front)
    }

    /// What follows a value in its list.
    pub fn next(&self, key: Key) -> Option<Key> {
        self.get(key)?;
        self.at(self.slots[key.index as usize].next)
    }

    fn fill(&mut self, list: usize, value: T) -> u32 {
        if self.free == NIL {
            let slot = Slot { value: Some(value), generation: 0, list, prev: NIL, next: NIL };
            self.slots.push(slot);
            return self.slots.len() as u32 - 1;
        }
        let index = self.free;
        let slot = self.slot(index);
        (slot.value, slot.list) = (Some(value), list);
        self.free = std::mem::replace(&mut slot.next, NIL);
        index
    }

    fn link_back(&mut self, index: u32) {
        let list = self.slot(index).list;
        let prev = std::mem::replace(&mut self.ends[list].back, index);
        (self.slot(index).prev, self.slot(index).next) = (prev, NIL);
        match prev {
            NIL => self.ends[list].front = index,
            _ => self.slot(prev).next = index,
        }
    }

    fn link_front(&mut self, index: u32) {
        let list = self.slot(index).list;
        let next = std::mem::replace(&mut self.ends[list].front, index);
        (self.slot(index).prev, self.slot(index).next) = (NIL, next);
        match next {
            NIL => self.ends[list].back = index,
            _ => self.slot(next).prev = index,
        }
    }

    fn unlink(&mut self, index: u32) {
        let Slot { list, prev, next, .. } = *self.slot(index);
        match prev {
            NIL => self.ends[list].front = next,
            _ => self.slot(prev).next = next,
        }
        match next {
            NIL => self.ends[list].back = prev,
            _ => self.slot(next).prev = prev,
        }
    }

    fn slot(&mut self, index: u32) -> &mut Slot<T> {
        &mut self.slots[index as usize]
    }

    fn key(&self, index: u32) -> Key {
        Key { index, generation: self.slots[index as usize].generation }
    }

    fn at(&self, index: u32) -> Option<Key> {
        (index != NIL).then(|| self.key(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[derive(Clone, Debug)]
    enum Op {
        Back(usize),
        Front(usize),
        Remove(usize),
        ToBack(usize),
    }

    fn op() -> impl Strategy<Value = Op> {
        prop_oneof![
            3 => (0..2usize).prop_map(Op::Back),
            1 => (0..2usize).prop_map(Op::Front),
            2 => (0..64usize).prop_map(Op::Remove),
            1 => (0..64usize).prop_map(Op::ToBack),
        ]
    }

    proptest! {
        #[test]
        fn behaves_like_two_deques(ops in proptest::collection::vec(op(), 0..100)) {
            let mut lists = Lists::<usize, 2>::new();
            let mut model = [VecDeque::new(), VecDeque::new()];
            let mut keys = Vec::new();
            for op in ops {
                // Every key ever given, so that old ones are tried too.
                let n = keys.len();
                match op {
                    Op::Back(list) => {
                        keys.push(lists.push_back(list, n));
                        model[list].push_back(n);
                    }
                    Op::Front(list) => {
                        keys.push(lists.push_front(list, n));
                        model[list].push_front(n);
                    }
                    Op::Remove(i) if n > 0 => {
                        let held = model.iter_mut().find_map(|m| {
                            let at = m.iter().position(|&x| x == i % n)?;
                            m.remove(at)
                        });
                        prop_assert_eq!(lists.remove(keys[i % n]), held);
                        prop_assert_eq!(lists.get(keys[i % n]), None);
                    }
                    Op::ToBack(i) if n > 0 => {
                        lists.move_to_back(keys[i % n]);
                        for m in &mut model {
                            if let Some(at) = m.iter().position(|&x| x == i % n) {
                                let x = m.remove(at).unwrap();
                                m.push_back(x);
                            }
                        }
                    }
                    _ => {}
                }
                for (list, model) in model.iter().enumerate() {
                    let keys = std::iter::successors(lists.front(list), |&key| lists.next(key));
                    let held: Vec<_> = keys.map(|key| *lists.get(key).unwrap()).collect();
                    prop_assert_eq!(&held, &Vec::from(model.clone()));
                }
            }
        }
    }
}
