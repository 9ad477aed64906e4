//! Drafts of sequences, verified: `logitd.verify`.
//!
//! A sequence has a row for each draft and one more. What is asked of it ([`asked`]: the drafts, and what these were drawn
//! from, [`origins`]) becomes rows of a batch like any other ([`laid`]), and what came of them is walked over: which drafts it
//! takes, and which token follows ([`verified`]).

pub mod asked;
pub mod laid;
pub mod origins;
pub mod verified;
