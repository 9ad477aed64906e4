//! What is said of a sequence's drafts and of what they were drawn from, checked. Errors name fields as the API does.

use crate::params::{Field, ParamsSpec};
use crate::row::{Proposal, Typical, WEIGHTS_END};
use std::collections::HashSet;

/// When a draft is likely enough, where nobody says otherwise: as Medusa has it.
const TYPICAL: Typical = Typical { epsilon: 0.09, delta: 0.3 };

/// What is wrong with a draft.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct DraftError {
    /// The field, by its path in the sequence.
    pub field: String,
    /// Its value, and what is allowed.
    pub description: String,
}

/// Whether the drafts of a sequence are drafts of a vocabulary: a chain, or a tree whose nodes hang under earlier ones.
pub fn check(drafts: &[u32], parents: &[u32], vocab_size: u32) -> Result<(), DraftError> {
    if let Some(i) = drafts.iter().position(|&token| token >= vocab_size) {
        let token = drafts[i];
        let text = format!("drafts is {token}; allowed: below {vocab_size} (vocab_size)");
        return wrong(format!("drafts[{i}]"), text);
    }
    if !parents.is_empty() && parents.len() != drafts.len() {
        let (given, drafts) = (parents.len(), drafts.len());
        let text =
            format!("parents has {given} nodes for {drafts} drafts; allowed: none, or one a draft");
        return wrong("parents".into(), text);
    }
    if let Some(i) = parents.iter().enumerate().position(|(i, &parent)| parent as usize > i) {
        let parent = parents[i];
        let text = format!(
            "parents is {parent}; allowed: 0 to {i}, an earlier node than {}, which the draft is",
            i + 1
        );
        return wrong(format!("parents[{i}]"), text);
    }
    Ok(())
}

/// Whether so many tokens can follow the one at a position.
pub fn check_position(position: u64, following: u64) -> Result<(), DraftError> {
    if position.checked_add(following).is_some() {
        return Ok(());
    }
    let most = u64::MAX - following;
    let text =
        format!("position is {position}, and {following} tokens follow; allowed: up to {most}");
    wrong("position".into(), text)
}

/// When drafts of a sequence are likely enough.
pub fn typical(epsilon: Option<f32>, delta: Option<f32>) -> Result<Typical, DraftError> {
    let part = |field: &str, given: Option<f32>, default: f32| match given.unwrap_or(default) {
        part if part > 0.0 && part <= 1.0 => Ok(part),
        part => wrong(field.into(), format!("{field} is {part}; allowed: above 0, up to 1")),
    };
    Ok(Typical {
        epsilon: part("typical_epsilon", epsilon, TYPICAL.epsilon)?,
        delta: part("typical_delta", delta, TYPICAL.delta)?,
    })
}

/// What a draft was drawn from, as weights of a few tokens.
pub fn sparse(
    tokens: Vec<u32>,
    weights: Vec<u64>,
    vocab_size: u32,
) -> Result<Proposal, DraftError> {
    if tokens.len() != weights.len() {
        let (tokens, weights) = (tokens.len(), weights.len());
        let text = format!("weights has {weights} for {tokens} tokens; allowed: one a token");
        return wrong("sparse.weights".into(), text);
    }
    let mut seen = HashSet::with_capacity(tokens.len());
    for (i, &token) in tokens.iter().enumerate() {
        let field = || format!("sparse.tokens[{i}]");
        if token >= vocab_size {
            let text = format!("tokens is {token}; allowed: below {vocab_size} (vocab_size)");
            return wrong(field(), text);
        }
        if !seen.insert(token) {
            let text = format!("tokens is {token} again; allowed: each token once");
            return wrong(field(), text);
        }
    }
    match weights.iter().try_fold(0u64, |sum, weight| sum.checked_add(*weight)) {
        Some(1..WEIGHTS_END) => {}
        sum => {
            let sum = sum.map_or("2^64 or more".into(), |sum| sum.to_string());
            let text = format!("weights has the sum {sum}; allowed: above 0, below 2^60");
            return wrong("sparse.weights".into(), text);
        }
    }
    let mut weighted: Vec<(u32, u64)> = tokens.into_iter().zip(weights).collect();
    weighted.sort_unstable_by_key(|&(token, _)| token);
    Ok(Proposal::Sparse(weighted))
}

/// What a draft was drawn from, as a probability a token.
pub fn dense(probabilities: Vec<f32>, vocab_size: u32) -> Result<Proposal, DraftError> {
    let field = || "dense.probabilities".to_owned();
    if probabilities.len() != vocab_size as usize {
        let given = probabilities.len();
        let text = format!(
            "probabilities has {given}; allowed: {vocab_size} (vocab_size), one a token; a few are `sparse`"
        );
        return wrong(field(), text);
    }
    if let Some(i) = probabilities.iter().position(|p| !(0.0..=1.0).contains(p)) {
        let text = format!("probabilities is {}; allowed: 0 to 1", probabilities[i]);
        return wrong(format!("dense.probabilities[{i}]"), text);
    }
    // What is less than a unit counts as 0.
    const UNIT: f32 = 1.0 / (1u64 << 40) as f32;
    if probabilities.iter().all(|&p| p < UNIT) {
        let text = "probabilities has none of 2^-40 or more; allowed: at least one";
        return wrong(field(), text.into());
    }
    Ok(Proposal::Dense(probabilities))
}

/// The first parameter that no row of a sequence can have, with its value.
pub fn refused(spec: &ParamsSpec) -> Option<(&'static str, String)> {
    let refused = [
        ("mirostat_tau", spec.mirostat_tau > 0.0),
        ("adaptive_target", spec.adaptive_target.is_some()),
        ("draws", spec.draws > 1),
    ];
    let (name, _) = refused.into_iter().find(|(_, is_given)| *is_given)?;
    let value = Field::named(name).expect("a parameter").get(*spec);
    Some((name, value.to_string()))
}

/// The nodes that these tokens lead through, from the root of a tree on.
pub fn path(parents: &[u32], drafts: &[u32], tokens: &[u32]) -> Vec<u32> {
    let mut node = 0;
    let step = |&token: &u32| {
        let child = (node as usize..parents.len())
            .find(|&i| parents[i] == node && drafts[i] == token)
            .expect("the walk came through it");
        node = child as u32 + 1;
        node
    };
    tokens.iter().map(step).collect()
}

fn wrong<T>(field: String, description: String) -> Result<T, DraftError> {
    Err(DraftError { field, description })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_goes_by_the_first_child_of_a_token() {
        // 0 - 1 (7) - 3 (8), 0 - 2 (7) - 4 (9)
        let (parents, drafts) = ([0, 0, 1, 2], [7, 7, 8, 9]);
        assert_eq!(path(&parents, &drafts, &[7, 8]), [1, 3]);
        assert_eq!(path(&parents, &drafts, &[7]), [1]);
        assert_eq!(path(&parents, &drafts, &[]), [0; 0]);
    }

    #[test]
    fn a_tree_grows_from_earlier_nodes() {
        let said = |drafts: &[u32], parents: &[u32]| {
            check(drafts, parents, 10).err().map(|error| error.to_string())
        };
        assert_eq!(said(&[9, 0, 3], &[]), None);
        assert_eq!(said(&[9, 9, 3], &[0, 0, 2]), None);
        let text =
            "parents[1]: parents is 2; allowed: 0 to 1, an earlier node than 2, which the draft is";
        assert_eq!(said(&[9, 9, 3], &[0, 2, 1]).unwrap(), text);
        let text = "parents: parents has 1 nodes for 2 drafts; allowed: none, or one a draft";
        assert_eq!(said(&[1, 2], &[0]).unwrap(), text);
        let text = "drafts[1]: drafts is 10; allowed: below 10 (vocab_size)";
        assert_eq!(said(&[1, 10], &[]).unwrap(), text);
    }

    #[test]
    fn weights_are_sorted_and_their_sum_is_bounded() {
        let of = |tokens: &[u32], weights: &[u64]| sparse(tokens.to_vec(), weights.to_vec(), 10);
        let Ok(Proposal::Sparse(weights)) = of(&[7, 2], &[3, WEIGHTS_END - 4]) else {
            panic!("it is right")
        };
        assert_eq!(weights, [(2, WEIGHTS_END - 4), (7, 3)]);
        let said = |tokens: &[u32], weights: &[u64]| of(tokens, weights).unwrap_err().to_string();
        for (tokens, weights, text) in [
            (
                &[7, 7][..],
                &[1, 1][..],
                "sparse.tokens[1]: tokens is 7 again; allowed: each token once",
            ),
            (&[10], &[1], "sparse.tokens[0]: tokens is 10; allowed: below 10 (vocab_size)"),
            (&[1, 2], &[1], "sparse.weights: weights has 1 for 2 tokens; allowed: one a token"),
            (&[1], &[0], "sparse.weights: weights has the sum 0; allowed: above 0, below 2^60"),
            (&[], &[], "sparse.weights: weights has the sum 0; allowed: above 0, below 2^60"),
            (
                &[1],
                &[WEIGHTS_END],
                "sparse.weights: weights has the sum 1152921504606846976; allowed: above 0, below 2^60",
            ),
            (
                &[1, 2],
                &[u64::MAX, 1],
                "sparse.weights: weights has the sum 2^64 or more; allowed: above 0, below 2^60",
            ),
        ] {
            assert_eq!(said(tokens, weights), text);
        }
    }

    #[test]
    fn probabilities_are_one_a_token() {
        let said = |probabilities: &[f32]| {
            dense(probabilities.to_vec(), 3).err().map(|error| error.to_string())
        };
        assert_eq!(said(&[0.0, 1.0, 1.0]), None);
        assert_eq!(said(&[0.0, 0.0, 1.0 / (1u64 << 40) as f32]), None);
        for (probabilities, text) in [
            (&[0.5, 0.5][..], "dense.probabilities: probabilities has 2; allowed: 3 (vocab_size)"),
            (&[0.0, 1.5, 0.0], "dense.probabilities[1]: probabilities is 1.5; allowed: 0 to 1"),
            (&[0.0, 0.0, -0.1], "dense.probabilities[2]: probabilities is -0.1; allowed: 0 to 1"),
            (&[f32::NAN, 0.0, 1.0], "dense.probabilities[0]: probabilities is NaN; allowed"),
            (&[0.0, 0.0, 1e-13], "dense.probabilities: probabilities has none of 2^-40 or more"),
        ] {
            let said = said(probabilities).unwrap();
            assert!(said.starts_with(text), "{said}");
        }
    }
}
