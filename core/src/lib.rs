//! Exact, replayable token sampling: logits in, tokens out, the same bits on every machine.
//!
//! A [`Row`](batch::Row) of logits and its [`SamplingParams`](params::SamplingParams) go into a
//! [`Backend`](backend::Backend); tokens and logprobs come out in [`Results`](batch::Results). What comes out depends
//! on the row and its parameters (the seed among them) alone: not on the backend, the instruction set, the number of
//! threads, or the other rows of a batch.
//!
//! ```
//! use logitd_core::backend::{Backend, cpu::Cpu};
//! use logitd_core::batch::{Dtype, Results, Row};
//! use logitd_core::params::ParamsSpec;
//!
//! let logits: Vec<u8> = [1.5f32, -0.25, 3.0, 2.75].iter().flat_map(|x| x.to_le_bytes()).collect();
//! let params = ParamsSpec { temperature: 0.8, top_k: 3, seed: Some(7), ..Default::default() };
//! let params = params.parse(|| unreachable!("a seed is given"))?;
//! let row = Row::new(Dtype::F32, &logits, params)?;
//!
//! let mut results = Results::default();
//! Cpu::new(Default::default())?.sample(&[row], &mut results)?;
//! assert_eq!(results.row(0).draws[0].token, 3);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]
#![deny(unsafe_code)]
// The documentation is read with its private items: it walks through the rooms.
#![allow(rustdoc::private_intra_doc_links)]

pub mod adjustments;
pub mod arithmetic;
pub mod backend;
pub mod batch;
pub mod beams;
pub mod candidates;
pub mod evaluate;
pub mod inspection;
pub mod params;
pub mod row;
pub mod status;
pub mod verify;
