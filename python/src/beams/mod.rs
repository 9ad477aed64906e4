//! Beam searches: `logitd.beam_step`, which makes a step of them, and `logitd.BeamSearch`, which goes from one to the next.
//!
//! What is asked of beams ([`asked`]) becomes rows of a batch like any other, and what these say becomes groups of candidates
//! ([`found`]). A search ([`search`]) keeps its beams and finished texts between the steps.

pub mod asked;
pub mod found;
pub mod search;
