//! Between the API and the domain: the one place where messages and JSON become values, and values become them.

pub mod adjustments;
pub mod beam;
pub mod code;
pub mod columns;
pub mod evaluate;
pub mod groups;
pub mod inspection;
pub mod json;
pub mod layout;
pub mod names;
pub mod params;
pub mod row;
pub mod sequences;
pub mod stand_in;
pub mod verify;
pub mod violations;
pub mod whole;
pub mod whole_rows;

use logitd_core::params::cuts::SWITCHES;

/// Fields of requests that came with version 2 of the arithmetic, but for the draw rule, and the methods that came
/// after it, by the names of the API.
pub fn controls() -> impl Iterator<Item = &'static str> {
    let of_request = ["history", "row_stride", "on_invalid_row"];
    let methods = ["verify", "beam_step"];
    let cuts = ["profile", "draft"].into_iter().chain(SWITCHES);
    let known = adjustments::controls().chain(inspection::KEYS).chain(of_request);
    known.chain(columns::KEYS).chain(cuts).chain(methods)
}
