//! How many there are of what values are given for.

/// What there is a value for each of: rows, or sequences of them.
#[derive(Clone, Copy, Debug)]
pub struct Of {
    pub count: usize,
    /// What one of them is called.
    pub one: &'static str,
}

impl Of {
    pub fn rows(count: usize) -> Self {
        Self { count, one: "row" }
    }

    pub fn sequences(count: usize) -> Self {
        Self { count, one: "sequence" }
    }
}
