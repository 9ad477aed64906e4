//! Races in a block's shared memory: two threads at one word, one of them writing, and nothing between
//! that puts one before the other. An error in whatever order the threads have run.
//!
//! What orders the threads of a block is a block or cluster barrier, and those of a warp a warp barrier
//! of all its lanes. Shuffles and votes "do not imply a memory barrier" (CUDA C++ Programming Guide).
//! Words have 4 bytes: no kernel here shares less. Other blocks' shared memory and global memory are not looked at.

use super::machine::WARP;

/// Who comes to a word, and when.
#[derive(Clone, Copy, Debug)]
pub struct Visitor {
    /// Its place in the block.
    pub thread: u32,
    /// Barriers that the block, and the warp, have passed.
    pub block_phase: u64,
    pub warp_phase: u64,
}

/// What for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    Read,
    Write,
    Atomic,
}

/// The visitors of every word of a block's shared memory.
pub struct Races {
    words: Vec<Word>,
}

/// A word's latest visits.
#[derive(Clone, Copy, Default)]
struct Word {
    read: Option<Visit>,
    write: Option<Visit>,
    atomic: Option<Visit>,
}

/// Visits that nothing has ordered yet, of one kind.
#[derive(Clone, Copy)]
struct Visit {
    /// The latest visitor.
    last: Visitor,
    /// Others of its warp are among them; others of other warps are.
    shared_by_warp: bool,
    shared_by_block: bool,
}

impl Races {
    /// Nobody has been there.
    pub fn new(bytes: usize) -> Self {
        Self { words: vec![Word::default(); bytes.div_ceil(4)] }
    }

    /// Notes an access to these bytes, which are there.
    pub fn visit(
        &mut self,
        at: usize,
        bytes: usize,
        access: Access,
        who: Visitor,
    ) -> Result<(), String> {
        for word in &mut self.words[at / 4..(at + bytes).div_ceil(4)] {
            let [against, mine] = match access {
                Access::Read => [[word.write, word.atomic], [None, None]],
                Access::Write => [[word.write, word.atomic], [word.read, None]],
                Access::Atomic => [[word.write, None], [word.read, None]],
            };
            for visit in against.into_iter().chain(mine).flatten() {
                if visit.races_with(who) {
                    let (last, thread) = (visit.last.thread, who.thread);
                    let what = format!("{access:?} of shared memory at {at} by thread {thread}");
                    return Err(format!("{what} races with an access by thread {last} or others"));
                }
            }
            let noted = match access {
                Access::Read => &mut word.read,
                Access::Write => &mut word.write,
                Access::Atomic => &mut word.atomic,
            };
            *noted = Some(Visit::after(*noted, who));
        }
        Ok(())
    }
}

impl Visit {
    /// Another visit of the same kind.
    fn after(before: Option<Self>, who: Visitor) -> Self {
        let alone = Self { last: who, shared_by_warp: false, shared_by_block: false };
        let Some(before) = before.filter(|b| b.last.block_phase == who.block_phase) else {
            return alone;
        };
        if warp(before.last) != warp(who) {
            return Self { shared_by_block: true, ..alone };
        }
        let same_phase = before.last.warp_phase == who.warp_phase;
        let others = before.shared_by_warp || before.last.thread != who.thread;
        Self {
            shared_by_warp: same_phase && others,
            shared_by_block: before.shared_by_block,
            ..alone
        }
    }

    /// Whether one of these visits and one of another kind have no order.
    fn races_with(&self, who: Visitor) -> bool {
        let last = self.last;
        if last.block_phase != who.block_phase {
            return false;
        }
        if self.shared_by_block || warp(last) != warp(who) {
            return true;
        }
        last.warp_phase == who.warp_phase && (self.shared_by_warp || last.thread != who.thread)
    }
}

fn warp(who: Visitor) -> u32 {
    who.thread / WARP as u32
}

#[cfg(test)]
mod tests {
    use super::Access::{Atomic, Read, Write};
    use super::*;

    /// Visits of one word: thread, block phase, warp phase, access. Which one is a race.
    fn first_race(visits: &[(u32, u64, u64, Access)]) -> Option<usize> {
        let mut races = Races::new(4);
        visits.iter().position(|&(thread, block_phase, warp_phase, access)| {
            races.visit(0, 4, access, Visitor { thread, block_phase, warp_phase }).is_err()
        })
    }

    #[test]
    fn only_what_nothing_orders_is_a_race() {
        assert_eq!(first_race(&[(1, 0, 0, Write), (1, 0, 0, Read), (1, 0, 0, Write)]), None);
        assert_eq!(first_race(&[(1, 0, 0, Write), (2, 0, 0, Read)]), Some(1));
        assert_eq!(first_race(&[(1, 0, 0, Write), (2, 0, 0, Write)]), Some(1));
        assert_eq!(first_race(&[(1, 0, 0, Write), (2, 0, 1, Read)]), None, "a warp barrier");
        assert_eq!(first_race(&[(1, 0, 0, Write), (40, 0, 1, Read)]), Some(1), "another warp's");
        assert_eq!(first_race(&[(1, 0, 0, Write), (40, 1, 0, Read)]), None, "a block barrier");
        assert_eq!(first_race(&[(1, 0, 0, Read), (2, 0, 0, Read), (40, 0, 0, Read)]), None);
        assert_eq!(first_race(&[(1, 0, 0, Read), (40, 0, 0, Read), (40, 0, 0, Write)]), Some(2));
        assert_eq!(first_race(&[(1, 0, 0, Read), (2, 0, 0, Read), (2, 0, 0, Write)]), Some(2));
        let ordered = [(1, 0, 0, Read), (2, 0, 0, Read), (2, 0, 1, Read), (2, 0, 1, Write)];
        assert_eq!(first_race(&ordered), None, "the other read before a warp barrier");
        assert_eq!(first_race(&[(1, 0, 0, Atomic), (40, 0, 0, Atomic)]), None);
        assert_eq!(first_race(&[(1, 0, 0, Atomic), (40, 0, 0, Atomic), (1, 0, 0, Read)]), Some(2));
        assert_eq!(first_race(&[(1, 0, 0, Read), (2, 0, 0, Atomic)]), Some(1));
        assert_eq!(first_race(&[(1, 0, 0, Write), (1, 0, 0, Atomic)]), None);
    }
}
