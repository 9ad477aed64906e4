//! A batch of any size on a stream of its own: cut into chunks, sent one behind the other while the
//! first are sampled, put together in order.

use super::split::{row_count, split_at};
use super::version::Known;
use super::{Client, Error, SampleReceiver, SampleSender, SampleStream};
use logitd_proto::{
    GetInfoResponse, ResultColumns, RowResult, RowStatus, SampleRequest, SampleResponse, Timings,
};
use std::collections::VecDeque;
use tokio::task::JoinSet;
use tonic::Status;

impl Client {
    /// Samples a batch of any size on a server that says this of itself, in chunks: the first are
    /// sampled while the last are still on their way. The answer is that of the whole batch, to the bit.
    /// Its times are those of the chunks together (waiting: the shortest), its device that of the last.
    ///
    /// A chunk that finds no room is sent again when the server says, [`Builder::retries_max`] times.
    /// The first other error ends the whole: the server drops what it has not yet sampled.
    /// [`Builder::timeout`] is the time for the whole.
    ///
    /// [`Builder::retries_max`]: super::Builder::retries_max
    /// [`Builder::timeout`]: super::Builder::timeout
    pub async fn sample_chunked(
        &self,
        request: SampleRequest,
        info: &GetInfoResponse,
    ) -> Result<SampleResponse, Error> {
        as_many(&request)?;
        Known::of(info).check(&request)?;
        let chunks = chunks(request, info);
        let work = self.sample_chunks(chunks);
        match self.options.timeout {
            Some(timeout) => tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
                Err(Status::deadline_exceeded("the batch was not answered in time").into())
            }),
            None => work.await,
        }
    }

    async fn sample_chunks(&self, chunks: Vec<Chunk>) -> Result<SampleResponse, Error> {
        let (service, version) = (self.service.clone(), self.version.clone());
        let stream = SampleStream::open(service, version, self.options.timeout).await?;
        let (sender, receiver) = stream.split();
        let answers = chunks.iter().map(|_| None).collect();
        let transfer = Transfer {
            unsent: (0..chunks.len()).collect(),
            attempts: vec![0; chunks.len()],
            chunks,
            sent: Vec::new(),
            answers,
            retries_max: self.options.retries_max,
            resting: JoinSet::new(),
        };
        Ok(join(transfer.run(sender, receiver).await?))
    }
}

/// Whether the batch has as many rows as it says. The server says the same of one that is not cut; one that
/// is too large to be sent whole must not be cut into chunks that look right.
fn as_many(request: &SampleRequest) -> Result<(), Status> {
    match (request.rows, row_count(request)) {
        (Some(given), Some(rows)) if given as usize != rows => {
            let text = format!(
                "rows: rows is {given}, and logits has {rows}; are dtype and vocab_size right?"
            );
            Err(Status::invalid_argument(text))
        }
        _ => Ok(()),
    }
}

/// Whether a batch is small enough to be sent as it is.
pub(super) fn fits_one(request: &SampleRequest, info: &GetInfoResponse) -> bool {
    chunks(request.clone(), info).len() == 1
}

/// Some rows of a batch.
struct Chunk {
    first_row: u64,
    request: SampleRequest,
}

/// The batch in chunks of a size that this server likes.
fn chunks(request: SampleRequest, info: &GetInfoResponse) -> Vec<Chunk> {
    let limits = info.limits.unwrap_or_default();
    let bytes_max = if info.chunk_bytes == 0 { u64::MAX } else { info.chunk_bytes };
    let mut next_row = 0;
    let chunk = |request: SampleRequest| {
        let first_row = next_row;
        next_row += row_count(&request).unwrap_or(0) as u64;
        Chunk { first_row, request }
    };
    split_at(request, &limits, bytes_max).into_iter().map(chunk).collect()
}

/// Chunks on their way.
struct Transfer {
    chunks: Vec<Chunk>,
    /// To be sent next: their places in `chunks`.
    unsent: VecDeque<usize>,
    /// Which chunk each message was, by the message's id.
    sent: Vec<usize>,
    answers: Vec<Option<SampleResponse>>,
    /// How often each chunk was refused.
    attempts: Vec<u32>,
    retries_max: u32,
    /// Refused chunks, until the server may have room.
    resting: JoinSet<usize>,
}

impl Transfer {
    /// Sends and receives at once until every chunk has its answer.
    async fn run(
        mut self,
        mut sender: SampleSender,
        mut receiver: SampleReceiver,
    ) -> Result<Vec<SampleResponse>, Error> {
        let mut left = self.chunks.len();
        while left > 0 {
            let next = self.unsent.front().map(|&place| &self.chunks[place]);
            tokio::select! {
                sent = send(&mut sender, next), if next.is_some() => {
                    sent?;
                    self.sent.extend(self.unsent.pop_front());
                }
                answer = receiver.receive() => {
                    let (id, answer) = answer.ok_or(Error::Closed)??;
                    left -= usize::from(self.take(id, answer)?);
                }
                Some(rested) = self.resting.join_next() => {
                    self.unsent.push_back(rested.expect("a sleep does not panic"));
                }
            }
        }
        Ok(self.answers.into_iter().flatten().collect())
    }

    /// Whether a chunk has its answer now.
    fn take(&mut self, id: u64, answer: Result<SampleResponse, Error>) -> Result<bool, Error> {
        let place = usize::try_from(id).ok().and_then(|id| self.sent.get(id).copied());
        let place = place.ok_or_else(|| Status::internal("an answer to no request"))?;
        let error = match answer {
            Ok(response) => return Ok(self.answers[place].replace(response).is_none()),
            Err(error) => error,
        };
        match error.retry_after() {
            Some(delay) if self.attempts[place] < self.retries_max => {
                self.attempts[place] += 1;
                self.resting.spawn(async move {
                    tokio::time::sleep(delay).await;
                    place
                });
                Ok(false)
            }
            _ => Err(self.error(place, error)),
        }
    }

    fn error(&self, place: usize, error: Error) -> Error {
        let Chunk { first_row, request } = &self.chunks[place];
        let rows = row_count(request).unwrap_or(0) as u64;
        Error::Chunk { first_row: *first_row, rows, error: Box::new(error) }
    }
}

async fn send(sender: &mut SampleSender, chunk: Option<&Chunk>) -> Result<u64, Error> {
    let Chunk { first_row, request } = chunk.expect("polled only where there is one");
    sender.send_chunk(*first_row, request.clone()).await
}

/// The answers to all chunks, in their order, as one.
fn join(answers: Vec<SampleResponse>) -> SampleResponse {
    let mut whole = SampleResponse::default();
    let mut queue_us = None::<u64>;
    let mut timings = Timings::default();
    let has_draws = |answer: &SampleResponse| {
        answer.columns.as_ref().is_some_and(|columns| !columns.draw_tokens.is_empty())
    };
    let several = answers.iter().any(has_draws);
    for answer in answers {
        let times = answer.timings.unwrap_or_default();
        queue_us = Some(queue_us.map_or(times.queue_us, |least| least.min(times.queue_us)));
        timings.copy_us += times.copy_us;
        timings.compute_us += times.compute_us;
        let SampleResponse { mut rows, mut columns, .. } = std::mem::take(&mut whole);
        // Rows stand beside columns only where they tell more; those of all chunks do, if those of one do.
        let before = columns.as_ref().map_or(0, |columns| columns.statuses.len());
        if let Some(these) = &answer.columns
            && !(rows.is_empty() && answer.rows.is_empty())
        {
            rows.resize(before, RowResult::default());
            rows.extend(answer.rows);
            rows.resize(before + these.statuses.len(), RowResult::default());
        } else {
            rows.extend(answer.rows);
        }
        let these = answer.columns.map(|these| if several { with_draws(these) } else { these });
        columns = match (columns, these) {
            (Some(columns), Some(these)) => Some(columns_of_both(columns, these)),
            (columns, these) => columns.or(these),
        };
        whole = SampleResponse { rows, columns, timings: None, ..answer };
    }
    whole.timings = Some(Timings { queue_us: queue_us.unwrap_or(0), ..timings });
    whole
}

/// The same with a list of draws, where every row has one. A row that is wrong has none.
fn with_draws(mut columns: ResultColumns) -> ResultColumns {
    if columns.draw_tokens.is_empty() {
        let is_sampled = |status: &i32| *status != i32::from(RowStatus::InvalidParameters);
        for (row, _) in columns.statuses.iter().enumerate().filter(|(_, s)| is_sampled(s)) {
            columns.draw_tokens.extend(columns.tokens.get(row));
            columns.draw_logprobs.extend(columns.logprobs.get(row));
        }
    }
    columns
}

fn columns_of_both(mut columns: ResultColumns, these: ResultColumns) -> ResultColumns {
    let rows = (columns.statuses.len(), these.statuses.len());
    columns.mirostat_mu = states_of_both(columns.mirostat_mu, these.mirostat_mu, rows);
    columns.adaptive_sum = states_of_both(columns.adaptive_sum, these.adaptive_sum, rows);
    columns.adaptive_weight = states_of_both(columns.adaptive_weight, these.adaptive_weight, rows);
    columns.statuses.extend(these.statuses);
    columns.tokens.extend(these.tokens);
    columns.logprobs.extend(these.logprobs);
    columns.kept.extend(these.kept);
    columns.kept_mass.extend(these.kept_mass);
    columns.seeds.extend(these.seeds);
    columns.draw_tokens.extend(these.draw_tokens);
    columns.draw_logprobs.extend(these.draw_logprobs);
    columns
}

/// A state of so many rows each: NaN for rows without one, and nothing where no row has one.
fn states_of_both(mut states: Vec<f32>, these: Vec<f32>, rows: (usize, usize)) -> Vec<f32> {
    if !(states.is_empty() && these.is_empty()) {
        states.resize(rows.0, f32::NAN);
        states.extend(these);
        states.resize(rows.0 + rows.1, f32::NAN);
    }
    states
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_of_some_chunks_are_told_for_all_rows() {
        let chunk = |rows: usize, states: &[f32]| SampleResponse {
            columns: Some(ResultColumns {
                statuses: vec![1; rows],
                mirostat_mu: states.to_vec(),
                ..Default::default()
            }),
            ..Default::default()
        };
        let joined = |chunks: Vec<SampleResponse>| join(chunks).columns.unwrap();
        assert_eq!(joined(vec![chunk(2, &[]), chunk(1, &[])]).mirostat_mu, []);
        let whole = joined(vec![chunk(2, &[]), chunk(2, &[5.0, f32::NAN]), chunk(1, &[])]);
        let told: Vec<bool> = whole.mirostat_mu.iter().map(|mu| *mu == 5.0).collect();
        assert_eq!(told, [false, false, true, false, false]);
        assert_eq!((whole.adaptive_sum.len(), whole.adaptive_weight.len()), (0, 0));
    }
}
