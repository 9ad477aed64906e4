//! Sums of an evaluation: messages of the API, and the domain's.

use logitd_core::evaluate::sums::{GroupSums, SetSums};
use logitd_proto as api;

/// The sums of a label as a message.
pub fn message(label: u32, sums: &GroupSums) -> api::GroupSums {
    let each = |field: fn(&SetSums) -> u64| sums.sets.iter().map(field).collect();
    api::GroupSums {
        group: label,
        rows: sums.rows,
        rows_failed: sums.rows_failed,
        hits: each(|set| set.hits),
        kept: each(|set| set.kept),
        logprob_q32: sums.sets.iter().map(|set| set.logprob_q32).collect(),
        probability_q32: each(|set| set.probability_q32),
        entropy_q32: each(|set| set.entropy_q32),
        surprise_q32: each(|set| set.surprise_q32),
        collision_q32: each(|set| set.collision_q32),
        tail_q32: each(|set| set.tail_q32),
    }
}

/// What a message says; an error where its lists do not have a value for each of so many sets.
pub fn sums(message: &api::GroupSums, sets: usize) -> Result<GroupSums, String> {
    let lists = [
        ("hits", message.hits.len()),
        ("kept", message.kept.len()),
        ("logprob_q32", message.logprob_q32.len()),
        ("probability_q32", message.probability_q32.len()),
        ("entropy_q32", message.entropy_q32.len()),
        ("surprise_q32", message.surprise_q32.len()),
        ("collision_q32", message.collision_q32.len()),
        ("tail_q32", message.tail_q32.len()),
    ];
    if let Some((name, length)) = lists.into_iter().find(|(_, length)| *length != sets) {
        return Err(format!("the answer has {length} values of {name} for {sets} sets"));
    }
    let set = |i: usize| SetSums {
        hits: message.hits[i],
        kept: message.kept[i],
        logprob_q32: message.logprob_q32[i],
        probability_q32: message.probability_q32[i],
        entropy_q32: message.entropy_q32[i],
        surprise_q32: message.surprise_q32[i],
        collision_q32: message.collision_q32[i],
        tail_q32: message.tail_q32[i],
    };
    let sets = (0..sets).map(set).collect();
    Ok(GroupSums { rows: message.rows, rows_failed: message.rows_failed, sets })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_go_and_come_back() {
        let set = |n: u64| SetSums {
            hits: n,
            kept: n + 1,
            logprob_q32: -(n as i64) - 2,
            probability_q32: n + 3,
            entropy_q32: n + 4,
            surprise_q32: n + 5,
            collision_q32: n + 6,
            tail_q32: n + 7,
        };
        let own = GroupSums { rows: 9, rows_failed: 1, sets: vec![set(10), set(20)] };
        let sent = message(7, &own);
        assert_eq!((sent.group, sums(&sent, 2)), (7, Ok(own)));
        let said = sums(&api::GroupSums { kept: vec![1], ..sent }, 2).unwrap_err();
        assert_eq!(said, "the answer has 1 values of kept for 2 sets");
    }
}
