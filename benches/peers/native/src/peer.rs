//! What has a sampler: a library, over rows of one kind.

use crate::cases::Case;
use crate::rows::Rows;
use std::error::Error;

/// A library that samples.
pub trait Peer {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// Its version.
    fn version(&self) -> String;
    /// How the logits that it is given are stored.
    fn dtype(&self) -> &'static str;
    /// Why it cannot do what a case asks for, where it cannot.
    fn no_way(&self, case: &Case) -> Option<&'static str>;
    /// What samples these rows, made ready: nothing of that is timed.
    fn sampler<'a>(&'a self, case: &'a Case, rows: &'a Rows) -> Made<'a>;
}

/// A sampler, or why it could not be made.
pub type Made<'a> = Result<Box<dyn Sampler + 'a>, Box<dyn Error>>;

/// What samples the rows of a case, as the users of its library do it.
pub trait Sampler {
    /// Draws a token from a row.
    fn sample(&mut self, row: usize) -> Result<u32, Box<dyn Error>>;
    /// How many tokens the last draw was among, where that can be seen.
    fn kept(&self) -> Option<usize> {
        None
    }
}
