//! Batches beyond a server's limits, cut into requests within them.

use logitd_proto::{
    DrawRule, Limits, Logprobs, ParamColumns, Profile, RequestRows, SampleRequest, SamplingParams,
};
use prost::Message;
use std::borrow::Cow;
use std::ops::Range;

/// Encoded bytes of a request that are neither rows nor parameters, at most.
const FIXED_BYTES: u64 = 64;
/// Encoded bytes of the key and the length of a field within a request, at most.
const FIELD_BYTES: u64 = 6;
/// Bytes of what the answer to a request tells beside tokens, unless a single row has more: half of what is taken of a
/// server.
const TOLD_BYTES_MAX: u64 = 32 << 20;
/// Bytes of a token, its rank and its logprob.
const TOKEN_LOGPROB_BYTES: u64 = 12;

/// Cuts a batch into requests that a server with these limits takes, in the order of its rows and
/// without copying logits. What cannot be cut (it has no rows, or not as many as it says, or a single row is
/// over a limit) is left as it is, for the server to name what is wrong with it.
pub fn split(request: SampleRequest, limits: &Limits) -> Vec<SampleRequest> {
    split_at(request, limits, u64::MAX)
}

/// The same, into requests of at most `bytes_max` bytes of rows where they have more than one.
pub(super) fn split_at(
    request: SampleRequest,
    limits: &Limits,
    bytes_max: u64,
) -> Vec<SampleRequest> {
    let Some(layout) = RequestRows::of(&request) else { return vec![request] };
    let rows = layout.count();
    if request.rows.is_some_and(|given| given as usize != rows) {
        return vec![request];
    }
    let bare = SampleRequest {
        params: vec![],
        columns: None,
        adjustments: vec![],
        logits: request.logits.clone(),
        candidates: request.candidates.clone(),
        slot: request.slot.clone(),
        ..request
    };
    let (Some(params), Some(columns), Some(adjustments)) = (
        PerRow::new(&request.params, rows),
        Columns::new(request.columns.as_ref(), rows),
        PerRow::new(&request.adjustments, rows),
    ) else {
        return vec![request];
    };

    let of_all =
        FIXED_BYTES + params.bytes_of_all() + columns.bytes_of_all + adjustments.bytes_of_all();
    let message_bytes_max = limits.message_bytes_max.saturating_sub(of_all);
    let rows_max = limits.request_rows_max.max(1) as usize;
    let draws_max = u64::from(limits.request_draws_max);
    // A server that says nothing of races has none.
    let race_tokens_max = match limits.request_race_tokens_max {
        0 => u64::MAX,
        limit => limit,
    };
    let params_of = |row| match columns.of(row) {
        Some(params) => Some(Cow::Owned(params)),
        None => params.of(row).map(Cow::Borrowed),
    };
    let mut requests = Vec::new();
    let mut start = 0;
    while start < rows {
        let mut end = start;
        let (mut drawn, mut raced, mut bytes, mut message_bytes, mut told_bytes) = (0, 0, 0, 0, 0);
        while end < rows {
            let asked = params_of(end).unwrap_or_default();
            drawn += u64::from(asked.draws.unwrap_or(1));
            raced += race_tokens(&asked, layout.tokens(end));
            let logprobs = columns.logprobs().or(asked.logprobs.as_ref());
            told_bytes += self::told_bytes(&asked, logprobs, request.vocab_size);
            bytes += layout.bytes(end);
            message_bytes += layout.bytes(end)
                + params.bytes(end)
                + columns.bytes_of_row
                + adjustments.bytes(end);
            let fits = end - start < rows_max
                && drawn <= draws_max
                && raced <= race_tokens_max
                && told_bytes <= TOLD_BYTES_MAX
                && bytes <= bytes_max
                && message_bytes <= message_bytes_max;
            if !fits && end > start {
                break;
            }
            end += 1;
        }
        requests.push(SampleRequest {
            params: params.cut(start..end),
            columns: columns.given.map(|columns| columns.cut(start..end)),
            adjustments: adjustments.cut(start..end),
            ..layout.cut(&bare, start..end)
        });
        start = end;
    }
    requests
}

/// What a row of so many tokens counts towards `Limits.request_race_tokens_max`.
fn race_tokens(params: &SamplingParams, tokens: u64) -> u64 {
    if params.draw_rule() != DrawRule::Race || params.temperature == Some(0.0) {
        return 0;
    }
    // Others keep tokens that equal the last of top_k, and mirostat of llama.cpp is without it.
    let is_exact = match params.profile() {
        Profile::Unspecified | Profile::Logitd => true,
        Profile::Llamacpp => params.mirostat_tau == 0.0,
        _ => false,
    };
    let kept = match params.top_k {
        top_k if top_k > 0 && is_exact => tokens.min(top_k.into()),
        _ => tokens,
    };
    kept * u64::from(params.draws.unwrap_or(1))
}

/// About what is told of a row of so many tokens, beside what is drawn from it.
fn told_bytes(params: &SamplingParams, logprobs: Option<&Logprobs>, vocab_size: u32) -> u64 {
    let logprobs = logprobs.map_or(0, |asked| {
        let draws = u64::from(params.draws.unwrap_or(1));
        let tokens = draws + u64::from(asked.top.min(vocab_size)) + asked.ids.len() as u64;
        asked.of.len() as u64 * tokens * TOKEN_LOGPROB_BYTES
    });
    let kept = if params.return_kept { u64::from(vocab_size.div_ceil(8)) } else { 0 };
    logprobs + kept
}

/// What a request says of its rows: nothing, one for all, or one a row.
struct PerRow<'a, T> {
    given: &'a [T],
    one_a_row: bool,
}

impl<'a, T: Message + Clone> PerRow<'a, T> {
    /// `None` if there are neither.
    fn new(given: &'a [T], rows: usize) -> Option<Self> {
        let one_a_row = given.len() == rows && rows > 1;
        (given.len() <= 1 || one_a_row).then_some(Self { given, one_a_row })
    }

    fn of(&self, row: usize) -> Option<&T> {
        if self.one_a_row { self.given.get(row) } else { self.given.first() }
    }

    /// Encoded bytes of what each part has.
    fn bytes_of_all(&self) -> u64 {
        if self.one_a_row { 0 } else { self.given.first().map_or(0, encoded_bytes) }
    }

    /// Encoded bytes of what only the part with this row has.
    fn bytes(&self, row: usize) -> u64 {
        if self.one_a_row { self.given.get(row).map_or(0, encoded_bytes) } else { 0 }
    }

    fn cut(&self, rows: Range<usize>) -> Vec<T> {
        if self.one_a_row { self.given[rows].to_vec() } else { self.given.to_vec() }
    }
}

/// What a request says of its rows in columns.
struct Columns<'a> {
    given: Option<&'a ParamColumns>,
    /// Encoded bytes of what each part has.
    bytes_of_all: u64,
    /// And of what it has for each of its rows.
    bytes_of_row: u64,
}

impl<'a> Columns<'a> {
    /// `None` if they are not those of so many rows.
    fn new(given: Option<&'a ParamColumns>, rows: usize) -> Option<Self> {
        let Some(columns) = given else {
            return Some(Self { given, bytes_of_all: 0, bytes_of_row: 0 });
        };
        let sets = columns.sets().ok()?;
        let shared = encoded_bytes(&columns.cut(0..0));
        let bytes_of_row = encoded_bytes(columns).saturating_sub(shared).div_ceil(rows as u64);
        // Each part has the keys and the lengths of its columns again, and the length of DRY's message.
        let fields = columns.of_rows().count() as u64 + 1;
        let bytes_of_all = shared + fields * FIELD_BYTES;
        (sets == 1 || sets == rows).then_some(Self { given, bytes_of_all, bytes_of_row })
    }

    /// The set of a row without its lists, which are the same for all rows and may be long.
    fn of(&self, row: usize) -> Option<SamplingParams> {
        self.given.map(|columns| columns.set_without_lists(row))
    }

    fn logprobs(&self) -> Option<&Logprobs> {
        self.given?.logprobs.as_ref()
    }
}

fn encoded_bytes(message: &impl Message) -> u64 {
    message.encoded_len() as u64 + FIELD_BYTES
}

/// How many rows a request has; `None` if it has none that could be told apart.
pub(super) fn row_count(request: &SampleRequest) -> Option<usize> {
    RequestRows::of(request).map(|rows| rows.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{
        Adjustments, Candidates, DryColumns, Dtype, OnInvalidRow, Priority, SampleStreamRequest,
    };

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
            let history = |i| Adjustments { output: vec![i; 10], ..Default::default() };
            let adjustments = (0..30).map(history).take(params.len()).collect();
            let whole = SampleRequest { rows: Some(30), adjustments, ..request(30, params) };
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
                let count = |part: &SampleRequest| part.rows.unwrap() as usize;
                assert!(parts.iter().all(|part| count(part) == part.logits.len() / 200));
                if whole.params.len() > 1 {
                    let params: Vec<_> =
                        parts.iter().flat_map(|part| part.params.clone()).collect();
                    assert_eq!(params, whole.params);
                    let adjustments: Vec<_> =
                        parts.iter().flat_map(|part| part.adjustments.clone()).collect();
                    assert_eq!(adjustments, whole.adjustments);
                }
            }
        }
    }

    #[test]
    fn columns_are_cut_with_their_rows() {
        let columns = ParamColumns {
            temperature: vec![0.5],
            seed: (0..30).map(|row| u64::MAX - row).collect(),
            draws: (0..30).map(|row| 1 + row % 3).collect(),
            ..Default::default()
        };
        let whole = SampleRequest { columns: Some(columns.clone()), ..request(30, vec![]) };
        for limits in [limits(7, 1 << 20, 1000), limits(100, 1500, 1000), limits(100, 1 << 20, 5)] {
            let parts = split(whole.clone(), &limits);
            assert!(parts.len() > 1);
            let mut row = 0;
            for part in &parts {
                let (rows, given) = (part.logits.len() / 200, part.columns.as_ref().unwrap());
                assert!(part.encoded_len() as u64 <= limits.message_bytes_max);
                let sets: Vec<_> = (0..rows).map(|row| given.set(row)).collect();
                let draws: u32 = sets.iter().map(|set| set.draws.unwrap()).sum();
                assert!(draws <= limits.request_draws_max);
                assert_eq!(sets, (row..row + rows).map(|row| columns.set(row)).collect::<Vec<_>>());
                row += rows;
            }
            assert_eq!(row, 30);
        }
        let wrong = ParamColumns { top_k: vec![1, 2], ..columns };
        let wrong = SampleRequest { columns: Some(wrong), ..request(30, vec![]) };
        assert_eq!(split(wrong.clone(), &limits(7, 1 << 20, 1000)), [wrong]);
    }

    #[test]
    fn parts_with_every_column_are_within_the_limit_as_messages_of_a_stream() {
        const ROWS: usize = 300;
        let dry = DryColumns {
            multiplier: vec![0.5; ROWS],
            base: vec![1.5; ROWS],
            allowed_length: vec![2; ROWS],
            last_n: vec![64; ROWS],
            breakers: vec![],
        };
        let columns = ParamColumns {
            temperature: vec![0.5; ROWS],
            top_k: vec![40; ROWS],
            top_p: vec![0.5; ROWS],
            min_p: vec![0.5; ROWS],
            seed: vec![7; ROWS],
            position: vec![7; ROWS],
            draws: vec![1; ROWS],
            draw_rule: vec![DrawRule::Cumulative.into(); ROWS],
            draft: vec![true; ROWS],
            repetition_penalty: vec![1.5; ROWS],
            frequency_penalty: vec![0.5; ROWS],
            presence_penalty: vec![0.5; ROWS],
            no_repeat_ngram: vec![3; ROWS],
            min_tokens: vec![5; ROWS],
            dry: Some(dry),
            profile: vec![1; ROWS],
            return_kept: vec![true; ROWS],
            logprobs: None,
            top_n_sigma: vec![0.5; ROWS],
            top_h: vec![0.5; ROWS],
            top_a: vec![0.5; ROWS],
            epsilon_cutoff: vec![0.5; ROWS],
            eta_cutoff: vec![0.5; ROWS],
            typical_p: vec![0.5; ROWS],
            mirostat_tau: vec![0.5; ROWS],
            mirostat_eta: vec![0.5; ROWS],
            mirostat_mu: vec![0.5; ROWS],
            xtc_probability: vec![0.5; ROWS],
            xtc_threshold: vec![0.5; ROWS],
            adaptive_target: vec![0.5; ROWS],
            adaptive_decay: vec![0.5; ROWS],
            adaptive_sum: vec![0.5; ROWS],
            adaptive_weight: vec![0.5; ROWS],
            dynatemp_range: vec![0.5; ROWS],
            dynatemp_exponent: vec![0.5; ROWS],
        };
        assert_eq!(columns.of_rows().count(), 37, "every column");
        let words = |count: usize| (0..count).flat_map(|_| 1u32.to_le_bytes()).collect();
        let whole = SampleRequest {
            dtype: Dtype::F16.into(),
            vocab_size: 1 << 20,
            logits: vec![0; 2 * ROWS].into(),
            candidates: Some(Candidates { counts: words(ROWS), tokens: words(ROWS) }),
            columns: Some(columns),
            rows: Some(ROWS as u32),
            priority: Priority::High.into(),
            on_invalid_row: OnInvalidRow::Status.into(),
            return_columns: true,
            ..Default::default()
        };
        // Of parts of few rows much is keys and lengths; less than this is not enough for one row.
        for message_bytes_max in 290..1500 {
            let limits = limits(10_000, message_bytes_max, 10_000);
            for part in split(whole.clone(), &limits) {
                let (id, first_row) = (1 << 30, Some(1 << 30));
                let message = SampleStreamRequest { id, request: Some(part), first_row };
                let bytes = message.encoded_len() as u64;
                assert!(bytes <= message_bytes_max, "{bytes} of {message_bytes_max} bytes");
            }
        }
    }

    #[test]
    fn races_are_cut_by_the_tokens_that_run() {
        let limits = Limits { request_race_tokens_max: 1000, ..limits(100, 1 << 20, 1000) };
        let set = |top_k, draws| SamplingParams {
            top_k,
            draws: Some(draws),
            draw_rule: DrawRule::Race.into(),
            ..Default::default()
        };
        // Rows of 100 tokens.
        let parts = |params| split(request(30, vec![params]), &limits).len();
        assert_eq!([set(0, 1), set(0, 5), set(10, 5), set(500, 1)].map(parts), [3, 15, 2, 3]);
        assert_eq!(parts(SamplingParams { temperature: Some(0.0), ..set(0, 5) }), 1);
        let cumulative = DrawRule::Cumulative.into();
        assert_eq!(parts(SamplingParams { profile: Profile::Hf.into(), ..set(5, 5) }), 15);
        let llamacpp = SamplingParams { profile: Profile::Llamacpp.into(), ..set(1, 1) };
        assert_eq!(parts(llamacpp.clone()), 1);
        assert_eq!(parts(SamplingParams { mirostat_tau: 5.0, ..llamacpp }), 3);
        assert_eq!(parts(SamplingParams { draw_rule: cumulative, ..set(0, 5) }), 1);
    }

    #[test]
    fn answers_are_cut_by_what_they_tell() {
        let asked = |of: usize, top, ids| {
            let logprobs = Logprobs { of: vec![1; of], top, ids: vec![0; ids] };
            SamplingParams { logprobs: Some(logprobs), ..Default::default() }
        };
        let limits = limits(10_000, 1 << 30, 10_000);
        let parts = |params| split(request(2000, vec![params]), &limits).len();
        // Of 100 tokens no more than 100 are first: 2000 rows have 3 * (1 + 100 + 1000) tokens of 12 bytes.
        assert_eq!(parts(asked(3, 1024, 1000)), (2000 * 3 * 1101 * 12usize).div_ceil(32 << 20));
        assert_eq!([parts(asked(1, 20, 0)), parts(SamplingParams::default())], [1, 1]);
        let kept = SamplingParams { return_kept: true, ..Default::default() };
        assert_eq!(told_bytes(&kept, None, 1 << 20), 1 << 17);
        // The same in columns.
        let logprobs = asked(3, 1024, 1000).logprobs;
        let columns = ParamColumns { logprobs, ..Default::default() };
        let whole = SampleRequest { columns: Some(columns), ..request(2000, vec![]) };
        assert_eq!(split(whole, &limits).len(), parts(asked(3, 1024, 1000)));
    }

    #[test]
    fn rows_of_candidates_are_cut_with_their_tokens() {
        let le = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let counts = [3u32, 1, 4, 1, 5];
        let tokens: Vec<u32> = (0..14).collect();
        let candidates = Candidates { counts: le(&counts), tokens: le(&tokens) };
        let logits: Vec<u8> = (0..28).collect();
        let mut whole = SampleRequest { logits: logits.into(), ..request(1, vec![]) };
        whole.candidates = Some(candidates);
        assert_eq!(split(whole.clone(), &limits(100, 1000, 100)), [whole.clone()]);
        let parts = split(whole.clone(), &limits(2, 1000, 100));
        let given = |part: &SampleRequest| part.candidates.clone().unwrap();
        let sizes: Vec<_> = parts.iter().map(|part| given(part).counts.len() / 4).collect();
        assert_eq!(sizes, [2, 2, 1]);
        for (part, (range, counts)) in
            parts.iter().zip([(0..4, &counts[..2]), (4..9, &counts[2..4]), (9..14, &counts[4..])])
        {
            assert_eq!(given(part).counts, le(counts));
            assert_eq!(given(part).tokens, le(&tokens[range.clone()]));
            assert_eq!(part.logits, whole.logits.slice(range.start * 2..range.end * 2));
        }
        // By bytes: 22, 10, 28, 10 and 34 of them.
        let parts = split_at(whole.clone(), &limits(100, 1000, 100), 40);
        assert_eq!(
            parts.iter().map(|part| given(part).counts.len() / 4).collect::<Vec<_>>(),
            [2, 2, 1]
        );
        whole.logits = whole.logits.slice(1..);
        assert_eq!(split(whole.clone(), &limits(2, 1000, 100)), [whole]);
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
            |r| r.adjustments = vec![Adjustments::default(); 2],
            |r| r.rows = Some(2),
        ] {
            let mut request = request(3, vec![]);
            change(&mut request);
            assert_eq!(split(request.clone(), &wide), [request]);
        }
        assert_eq!(split(request(3, vec![]), &limits(100, 100, 1000)).len(), 3);
    }
}
