//! Between the API and the domain: the one place where messages and JSON become values, and values become them.

pub mod adjustments;
pub mod code;
pub mod json;
pub mod names;
pub mod params;
pub mod row;
pub mod whole;
