//! A second opinion on what is shipped: the PTX that nvcc made of the kernels, run instruction by
//! instruction on the CPU.
//!
//! The shim runs the kernels' source through a C++ compiler; this runs what the CUDA compiler made
//! of it, so that a difference between the two compilers shows. [`parse`] reads the text, [`op`]
//! and [`alu`] give the instructions their meaning, [`program`] makes them ready to run, [`machine`]
//! runs blocks and clusters, [`thread`] a thread, [`meet`] what threads do together, [`memory`] and
//! [`races`] check every access. [`driver`] makes a device of it all, which [`parity`] holds against the oracle;
//! [`contract`] reads the same PTX for what may not be there, and [`counts`] counts what a token takes.
//!
//! It needs nvcc (`NVCC`, `CUDA_HOME`, or on the path), of 13.0 as in `.ci/install`. Without one, only the
//! machine itself is tested, and the rest says that it is skipped; `LOGITD_REQUIRE_NVCC=1` makes that
//! a failure.

mod alu;
mod contract;
mod counts;
mod driver;
mod lex;
mod machine;
mod meet;
mod memory;
mod nvcc;
mod op;
mod parity;
mod parse;
mod program;
mod races;
mod registers;
mod snippets;
mod thread;
