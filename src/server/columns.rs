//! Requests with columns, and answers in them: they are counted here, become messages where the request is checked, and
//! results become columns again when they are there.

use super::budget::Held;
use super::call::Call;
use super::convert;
use super::error::Error;
use crate::engine::Permit;
use crate::wire::columns::{self, Draws};
use logitd_proto::{Limits, SampleRequest, SampleResponse};

/// What a request had or asked for.
pub struct Columns {
    /// Bytes of lists once each row has its own.
    pub list_bytes: usize,
    /// Of each row, where the results are to be columns.
    draws: Option<Draws>,
    /// Room for the lists, until the answer.
    _held: Vec<Held>,
}

impl Columns {
    /// Looks at the columns of a request. The permit, the connection and the token have room for the messages in their
    /// place before there are any.
    pub fn take(
        request: &mut SampleRequest,
        call: &Call,
        permit: &mut Permit,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let sets = convert::params_sets(request, limits)?;
        let list_bytes = match &request.columns {
            Some(columns) => within_limit(columns::list_bytes(columns, sets), limits)?,
            None => 0,
        };
        let _held = if list_bytes > 0 { call.hold(list_bytes)? } else { vec![] };
        permit.resize(permit.rows(), permit.bytes().saturating_add(list_bytes))?;
        let is_asked = std::mem::take(&mut request.return_columns);
        Ok(Self { list_bytes, draws: is_asked.then(|| Draws::of(request)), _held })
    }

    /// The answer, as it was asked for.
    pub fn answer(&self, response: SampleResponse) -> SampleResponse {
        match &self.draws {
            Some(draws) => columns::pack(response, draws),
            None => response,
        }
    }
}

fn within_limit(list_bytes: usize, limits: &Limits) -> Result<usize, Error> {
    let (value, limit) = (list_bytes as u64, limits.message_bytes_max);
    if value > limit {
        let what = "bytes of logprobs and breakers in columns, times the rows,";
        let (name, way_out) = ("message_bytes_max", "send several requests");
        return Err(Error::OverLimit { what, value, limit, name, way_out });
    }
    Ok(list_bytes)
}
