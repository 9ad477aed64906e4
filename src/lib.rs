//! Exact, replayable token sampling: logits in, tokens out, the same bits on every machine.

#![warn(missing_docs)]
#![deny(unsafe_code)]
// The documentation is read with its private items: it walks through the rooms.
#![allow(rustdoc::private_intra_doc_links)]

pub mod cli;
pub mod config;
pub mod devices;
pub mod engine;
pub mod files;
pub mod plane;
pub mod record;
pub mod server;
pub mod study;
pub mod tools;
pub mod wire;

/// Compiles the example of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
