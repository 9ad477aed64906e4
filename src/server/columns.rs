//! Requests with columns, and answers in them: messages meanwhile, so that nothing else needs to know of either.

use super::convert;
use super::error::{Error, Violation};
use crate::engine::Permit;
use crate::wire::columns::{self, Draws, Given};
use logitd_proto::{Limits, SampleRequest, SampleResponse};

/// What a request had or asked for.
pub struct Columns {
    given: Option<Given>,
    /// Of each row, where the results are to be columns.
    draws: Option<Draws>,
}

impl Columns {
    /// Takes the columns out of a request, and puts messages in their place. The permit has room for those before.
    pub fn take(
        request: &mut SampleRequest,
        permit: &mut Permit,
        limits: &Limits,
    ) -> Result<Self, Error> {
        let sets = convert::params_sets(request, limits)?;
        if let Some(columns) = &request.columns {
            let bytes = columns::list_bytes(columns, sets);
            if bytes as u64 > limits.message_bytes_max {
                return Err(Error::OverLimit {
                    what: "bytes of logprobs and breakers in columns, times the rows,",
                    value: bytes as u64,
                    limit: limits.message_bytes_max,
                    name: "message_bytes_max",
                    way_out: "send several requests",
                });
            }
            permit.resize(permit.rows(), permit.bytes().saturating_add(bytes))?;
        }
        let given = columns::unpack(request, sets);
        let is_asked = std::mem::take(&mut request.return_columns);
        Ok(Self { given, draws: is_asked.then(|| Draws::of(&request.params)) })
    }

    /// The answer, as it was asked for.
    pub fn answer(&self, response: SampleResponse) -> SampleResponse {
        match &self.draws {
            Some(draws) => columns::pack(response, draws),
            None => response,
        }
    }

    /// An error whose fields are those of the request. What is wrong for all rows is told once.
    pub fn name(&self, error: Error) -> Error {
        let (Some(given), Error::Invalid { listed, more }) = (&self.given, &error) else {
            return error;
        };
        let mut named: Vec<Violation> = Vec::with_capacity(listed.len());
        for Violation { field, description } in listed {
            let violation =
                Violation { field: given.path(field), description: description.clone() };
            if !named.contains(&violation) {
                named.push(violation);
            }
        }
        // Those of other rows are the same again then.
        let are_all = named.iter().all(|violation| given.is_for_all(&violation.field));
        Error::Invalid { listed: named, more: if are_all { 0 } else { *more } }
    }
}
