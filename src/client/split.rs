//! Batches beyond a server's limits, cut into requests within them.

use crate::api::{Dtype, Limits, SampleRequest, SamplingParams};

/// Encoded bytes of a request that are neither logits nor parameters, at most.
const FIXED_BYTES: u64 = 64;
/// Encoded bytes of one set of parameters, at most.
const PARAMS_BYTES: u64 = 64;

/// Cuts a batch into requests that a server with these limits takes, in the order of its rows and
/// without copying logits. What cannot be cut (it has no rows, or a single row is over a limit) is left
/// as it is, for the server to name what is wrong with it.
pub fn split(request: SampleRequest, limits: &Limits) -> Vec<SampleRequest> {
    let Some(row_bytes) = row_bytes(&request) else { return vec![request] };
    let rows = request.logits.len() / row_bytes;
    let params_a_row = request.params.len() == rows && rows > 1;
    if request.params.len() > 1 && !params_a_row {
        return vec![request];
    }

    let message_bytes = limits.message_bytes_max.saturating_sub(FIXED_BYTES + PARAMS_BYTES);
    let by_bytes = message_bytes / (row_bytes as u64 + if params_a_row { PARAMS_BYTES } else { 0 });
    let by_rows = u64::from(limits.request_rows_max);
    let rows_max = usize::try_from(by_bytes.min(by_rows)).unwrap_or(usize::MAX).max(1);
    let draws_max = u64::from(limits.request_draws_max);

    let draws = |row: usize| {
        let params = if params_a_row { request.params.get(row) } else { request.params.first() };
        u64::from(params.and_then(|params| params.draws).unwrap_or(1))
    };
    let mut requests = Vec::new();
    let mut start = 0;
    while start < rows {
        let mut end = start + 1;
        let mut drawn = draws(start);
        while end < rows && end - start < rows_max && drawn + draws(end) <= draws_max {
            drawn += draws(end);
            end += 1;
        }
        let params: Vec<SamplingParams> =
            if params_a_row { request.params[start..end].to_vec() } else { request.params.clone() };
        let logits = request.logits.slice(start * row_bytes..end * row_bytes);
        requests.push(SampleRequest { logits, params, ..request.clone() });
        start = end;
    }
    requests
}

/// Bytes of one row; `None` if the logits are not rows.
fn row_bytes(request: &SampleRequest) -> Option<usize> {
    let size = match Dtype::try_from(request.dtype).ok()? {
        Dtype::Unspecified => return None,
        Dtype::F16 | Dtype::Bf16 => 2,
        Dtype::F32 => 4,
    };
    let bytes = usize::try_from(request.vocab_size).ok()?.checked_mul(size)?;
    let rows =
        bytes > 0 && !request.logits.is_empty() && request.logits.len().is_multiple_of(bytes);
    rows.then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    fn request(rows: u32, params: Vec<SamplingParams>) -> SampleRequest {
        let logits: Vec<u8> = (0..rows * 100).flat_map(|i| (i as u16).to_le_bytes()).collect();
        let dtype = Dtype::F16.into();
        SampleRequest {
            dtype,
            vocab_size: 100,
            logits: logits.into(),
            params,
            ..Default::default()
        }
    }

    fn limits(rows: u32, bytes: u64, draws: u32) -> Limits {
        Limits {
            request_rows_max: rows,
            message_bytes_max: bytes,
            request_draws_max: draws,
            ..Default::default()
        }
    }

    #[test]
    fn the_parts_are_within_the_limits_and_make_up_the_whole() {
        let set = |i| SamplingParams {
            temperature: Some(0.5),
            seed: Some(u64::MAX - i),
            position: u64::MAX,
            draws: Some(1 + i as u32 % 3),
            ..Default::default()
        };
        for params in [vec![], vec![set(4)], (0..30).map(set).collect::<Vec<_>>()] {
            let whole = request(30, params);
            for limits in
                [limits(7, 1 << 20, 1000), limits(100, 1500, 1000), limits(100, 1 << 20, 5)]
            {
                let parts = split(whole.clone(), &limits);
                assert!(parts.len() > 1);
                for part in &parts {
                    assert!(part.logits.len() / 200 <= limits.request_rows_max as usize);
                    assert!(part.encoded_len() as u64 <= limits.message_bytes_max);
                }
                let logits: Vec<u8> = parts.iter().flat_map(|part| part.logits.to_vec()).collect();
                assert_eq!(logits, whole.logits);
                if whole.params.len() > 1 {
                    let params: Vec<_> =
                        parts.iter().flat_map(|part| part.params.clone()).collect();
                    assert_eq!(params, whole.params);
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_cut_is_left_for_the_server_to_refuse() {
        let wide = limits(100, 1 << 20, 1000);
        for change in [
            (|r| r.vocab_size = 0) as fn(&mut SampleRequest),
            |r| r.vocab_size = 7,
            |r| r.dtype = 9,
            |r| r.logits = bytes::Bytes::new(),
            |r| r.params = vec![SamplingParams::default(); 2],
        ] {
            let mut request = request(3, vec![]);
            change(&mut request);
            assert_eq!(split(request.clone(), &wide), [request]);
        }
        assert_eq!(split(request(3, vec![]), &limits(100, 100, 1000)).len(), 3);
    }
}
