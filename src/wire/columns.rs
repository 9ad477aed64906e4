//! Columns of the API: the parameters of many rows, a list each, as the messages that they stand for; and results as
//! columns.

use logitd_core::adjustments::{BREAKER_TOKENS_MAX, BREAKERS_MAX};
use logitd_core::inspection::{Distribution, LOGPROB_IDS_MAX};
use logitd_proto::{
    ParamColumns, RequestRows, ResultColumns, RowResult, RowStatus, SampleRequest, SampleResponse,
    WrongColumn,
};

/// Fields of requests that are columns, or ask for them.
pub const KEYS: [&str; 2] = ["columns", "return_columns"];

/// The token where there is none.
const NO_TOKEN: i32 = -1;

/// What is wrong with columns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {description}")]
pub struct ColumnsError {
    /// The field's path.
    pub field: String,
    /// The value, what is allowed, and what to do.
    pub description: String,
}

/// How many parameter sets the columns of a request stand for, if it has any; or what none of these can have.
pub fn sets(request: &SampleRequest) -> Result<Option<usize>, ColumnsError> {
    let Some(columns) = &request.columns else { return Ok(None) };
    if !request.params.is_empty() {
        let text = "columns stand beside params; allowed: one or the other";
        return Err(ColumnsError { field: "columns".into(), description: text.into() });
    }
    check_lists(columns)?;
    columns.sets().map(Some).map_err(|wrong| wrong_column(request, columns, &wrong))
}

/// What is wrong with columns of different lengths: the one that is not of the request's rows, where these can be told.
fn wrong_column(
    request: &SampleRequest,
    columns: &ParamColumns,
    wrong: &WrongColumn,
) -> ColumnsError {
    let last = |path: &'static str| path.rsplit('.').next().unwrap_or(path);
    let rows = RequestRows::of(request).map(|rows| rows.count());
    let rows = rows.or(request.rows.map(|rows| rows as usize));
    let other = rows.and_then(|rows| Some((rows, columns.other_than(rows)?)));
    let allowed = "allowed: none, 1 for all, or one a row";
    match (other, wrong) {
        (Some((rows, (name, length))), _) => ColumnsError {
            field: format!("columns.{name}"),
            description: format!("{} has {length} values for {rows} rows; {allowed}", last(name)),
        },
        (None, &WrongColumn { name, length, longest, rows }) => ColumnsError {
            field: format!("columns.{name}"),
            description: format!(
                "{} has {length} values, and columns.{longest} has {rows}; {allowed}",
                last(name)
            ),
        },
    }
}

/// Refuses lists of all rows that no set may have, before there is a copy of them for each.
fn check_lists(columns: &ParamColumns) -> Result<(), ColumnsError> {
    let at_most = |field: &str, count: usize, most: usize, what: &str| {
        let name = field.rsplit('.').next().unwrap_or(field);
        let description = format!("{name} has {count} {what}; allowed: up to {most}");
        let error = ColumnsError { field: format!("columns.{field}"), description };
        if count > most { Err(error) } else { Ok(()) }
    };
    if let Some(asked) = &columns.logprobs {
        at_most("logprobs.of", asked.of.len(), Distribution::ALL.len(), "distributions")?;
        at_most("logprobs.ids", asked.ids.len(), LOGPROB_IDS_MAX, "tokens")?;
    }
    let breakers = columns.dry.as_ref().map_or(&[][..], |dry| &dry.breakers);
    at_most("dry.breakers", breakers.len(), BREAKERS_MAX, "sequences")?;
    breakers.iter().enumerate().try_for_each(|(i, breaker)| {
        let tokens = breaker.tokens.len();
        at_most(&format!("dry.breakers[{i}]"), tokens, BREAKER_TOKENS_MAX, "tokens")
    })
}

/// Bytes of the lists that each of so many sets has of its own once they are messages.
pub fn list_bytes(columns: &ParamColumns, sets: usize) -> usize {
    const SEQUENCE_BYTES: usize = size_of::<Vec<u32>>();
    let logprobs = columns.logprobs.as_ref().map_or(0, |asked| asked.of.len() + asked.ids.len());
    let breakers = columns.dry.iter().flat_map(|dry| &dry.breakers);
    let breakers: usize = breakers.map(|one| SEQUENCE_BYTES + one.tokens.len() * 4).sum();
    (logprobs * 4 + breakers).saturating_mul(sets)
}

/// Puts so many messages in the place of the columns, and says by what paths the request has them.
pub fn unpack(request: &mut SampleRequest, sets: usize) -> Option<Paths> {
    let columns = request.columns.take()?;
    request.params = (0..sets).map(|set| columns.set(set)).collect();
    Some(Paths { of_rows: columns.of_rows().map(|(name, _)| name).collect() })
}

/// The paths of a request that came with columns: what is found wrong in the messages that they stand for is named by
/// them.
#[derive(Clone, Debug)]
pub struct Paths {
    /// Columns with a value for each row.
    of_rows: Vec<&'static str>,
}

/// Where something is in a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// The field.
    pub field: String,
    /// Whether it is of columns, and has a single value for all rows.
    pub is_for_all: bool,
}

impl Paths {
    /// A path in the parameter messages as one in the columns: `columns.top_p[3]` of `params[3].top_p`. Others stay as they
    /// are.
    pub fn of(&self, path: &str) -> Path {
        if path == "params" {
            // All columns with several values have as many; of several it may be none that is wrong.
            let field = match self.of_rows[..] {
                [only] => format!("columns.{only}"),
                _ => "columns".into(),
            };
            return Path { field, is_for_all: true };
        }
        let parts = path.strip_prefix("params[").and_then(|rest| rest.split_once("]."));
        let Some((row, name)) = parts else {
            return Path { field: path.into(), is_for_all: false };
        };
        let is_list = name.starts_with("logprobs") || name.starts_with("dry.breakers");
        let is_for_all = !self.of_rows.contains(&name);
        let field = match is_for_all {
            true if is_list => format!("columns.{name}"),
            true => format!("columns.{name}[0]"),
            false => format!("columns.{name}[{row}]"),
        };
        Path { field, is_for_all }
    }
}

/// How many draws each row asks for.
#[derive(Clone, Debug)]
pub struct Draws(Vec<u32>);

impl Draws {
    /// By what a request says, in messages or in columns: nothing, one for all, or one a row.
    pub fn of(request: &SampleRequest) -> Self {
        Self(match &request.columns {
            Some(columns) => columns.draws.clone(),
            None => request.params.iter().map(|params| params.draws.unwrap_or(1)).collect(),
        })
    }

    fn row(&self, row: usize) -> usize {
        let draws = match &self.0[..] {
            [] => 1,
            [one] => *one,
            each => each.get(row).copied().unwrap_or(1),
        };
        draws as usize
    }
}

/// The results as columns; what those do not tell stays with the rows, if there is anything of it.
pub fn pack(response: SampleResponse, draws: &Draws) -> SampleResponse {
    let SampleResponse { rows, .. } = response;
    let column = |value: fn(&RowResult) -> u64| rows.iter().map(value).collect();
    let mut columns = ResultColumns {
        statuses: rows.iter().map(|row| row.status).collect(),
        tokens: rows.iter().map(|row| token(row.token)).collect(),
        logprobs: rows.iter().map(|row| row.logprob.unwrap_or(f32::NAN)).collect(),
        kept: rows.iter().map(|row| row.kept).collect(),
        kept_mass: column(|row| row.kept_mass),
        seeds: column(|row| row.seed),
        ..Default::default()
    };
    if rows.iter().enumerate().any(|(i, row)| is_sampled(row) && draws.row(i) > 1) {
        for (i, row) in rows.iter().enumerate().filter(|(_, row)| is_sampled(row)) {
            let only = row.token.zip(row.logprob).filter(|_| row.draws.is_empty());
            let drawn = row.draws.iter().map(|draw| (draw.token, draw.logprob));
            let drawn = only.into_iter().chain(drawn);
            let end = columns.draw_tokens.len() + draws.row(i);
            for (drawn, logprob) in drawn {
                columns.draw_tokens.push(token(Some(drawn)));
                columns.draw_logprobs.push(logprob);
            }
            columns.draw_tokens.resize(end, NO_TOKEN);
            columns.draw_logprobs.resize(end, f32::NAN);
        }
    }
    columns.mirostat_mu = states(&rows, |row| row.mirostat_mu);
    columns.adaptive_sum = states(&rows, |row| row.adaptive_sum);
    columns.adaptive_weight = states(&rows, |row| row.adaptive_weight);
    let is_told = |row: &RowResult| *row != RowResult::default();
    let rows: Vec<RowResult> = rows.into_iter().map(beside_columns).collect();
    let rows = if rows.iter().any(is_told) { rows } else { vec![] };
    SampleResponse { rows, columns: Some(columns), ..response }
}

/// A state that rows may have: none where no row has it.
fn states(rows: &[RowResult], state: fn(&RowResult) -> Option<f32>) -> Vec<f32> {
    if rows.iter().all(|row| state(row).is_none()) {
        return vec![];
    }
    rows.iter().map(|row| state(row).unwrap_or(f32::NAN)).collect()
}

fn token(token: Option<u32>) -> i32 {
    // Tokens are below 2^20.
    token.map_or(NO_TOKEN, |token| token as i32)
}

fn is_sampled(row: &RowResult) -> bool {
    row.status() != RowStatus::InvalidParameters
}

/// What columns do not tell of a row.
fn beside_columns(row: RowResult) -> RowResult {
    let RowResult { logprobs, kept_ids, kept_bitmask, violation, .. } = row;
    RowResult { logprobs, kept_ids, kept_bitmask, violation, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_proto::{
        Draw, DryColumns, Dtype, Logprobs, LogprobsResult, SamplingParams, TokenSequence, Violation,
    };

    fn request(columns: ParamColumns) -> SampleRequest {
        SampleRequest { columns: Some(columns), ..Default::default() }
    }

    #[test]
    fn columns_become_the_messages_that_they_stand_for() {
        let columns =
            ParamColumns { top_k: vec![5, 6, 7], temperature: vec![0.5], ..Default::default() };
        let mut request = request(columns);
        let sets = sets(&request).unwrap().unwrap();
        let paths = unpack(&mut request, sets).unwrap();
        let set = |top_k| SamplingParams { temperature: Some(0.5), top_k, ..Default::default() };
        assert_eq!((request.params, request.columns), (vec![set(5), set(6), set(7)], None));
        for (path, field, is_for_all) in [
            ("params[2].top_k", "columns.top_k[2]", false),
            ("params[2].temperature", "columns.temperature[0]", true),
            ("params[2].logprobs.ids[5]", "columns.logprobs.ids[5]", true),
            ("params[2].dry.breakers[1]", "columns.dry.breakers[1]", true),
            ("params", "columns.top_k", true),
            ("adjustments[1].counts", "adjustments[1].counts", false),
        ] {
            assert_eq!(paths.of(path), Path { field: field.into(), is_for_all });
        }
        let two = Paths { of_rows: vec!["top_k", "seed"] };
        assert_eq!(two.of("params").field, "columns");
    }

    #[test]
    fn columns_that_cannot_be_are_named() {
        let error = |request: &SampleRequest| {
            let ColumnsError { field, description } = sets(request).unwrap_err();
            format!("{field}: {description}")
        };
        let two = ParamColumns { top_k: vec![5, 6, 7], draws: vec![1, 2], ..Default::default() };
        let mut two = request(two);
        let allowed = "allowed: none, 1 for all, or one a row";
        let both = "columns.draws: draws has 2 values, and columns.top_k has 3";
        assert_eq!(error(&two), format!("{both}; {allowed}"));
        for (rows, said) in [
            (2, "columns.top_k: top_k has 3 values for 2 rows"),
            (3, "columns.draws: draws has 2 values for 3 rows"),
        ] {
            two.rows = Some(rows);
            assert_eq!(error(&two), format!("{said}; {allowed}"));
            // The logits are more to be believed than what is said of them.
            two.rows = Some(9);
            (two.dtype, two.vocab_size) = (Dtype::F16.into(), 5);
            two.logits = vec![0; rows as usize * 10].into();
            assert_eq!(error(&two), format!("{said}; {allowed}"));
            two.logits = vec![].into();
        }
        let beside = SampleRequest {
            params: vec![SamplingParams::default()],
            ..request(ParamColumns::default())
        };
        assert!(error(&beside).starts_with("columns: columns stand beside params"));
        assert_eq!(sets(&SampleRequest::default()), Ok(None));
    }

    #[test]
    fn lists_that_no_set_may_have_are_refused_before_they_are_copied() {
        let logprobs = |of: usize, ids| {
            let logprobs = Logprobs { of: vec![1; of], ids: vec![7; ids], ..Default::default() };
            ParamColumns { logprobs: Some(logprobs), ..Default::default() }
        };
        let breakers = |count: usize, tokens| {
            let breakers = vec![TokenSequence { tokens: vec![7; tokens] }; count];
            let dry = DryColumns { breakers, ..Default::default() };
            ParamColumns { dry: Some(dry), ..Default::default() }
        };
        for (columns, said) in [
            (logprobs(4, 0), "columns.logprobs.of: of has 4 distributions; allowed: up to 3"),
            (logprobs(3, 1025), "columns.logprobs.ids: ids has 1025 tokens; allowed: up to 1024"),
            (
                breakers(257, 0),
                "columns.dry.breakers: breakers has 257 sequences; allowed: up to 256",
            ),
            (
                breakers(256, 17),
                "columns.dry.breakers[0]: breakers[0] has 17 tokens; allowed: up to 16",
            ),
        ] {
            assert_eq!(sets(&request(columns)).unwrap_err().to_string(), said);
        }
        for columns in [logprobs(3, 1024), breakers(256, 16)] {
            assert_eq!(sets(&request(columns)), Ok(Some(1)));
        }
    }

    #[test]
    fn lists_count_once_a_set() {
        let logprobs = Some(Logprobs { of: vec![1], ids: vec![0; 9], ..Default::default() });
        let dry = Some(DryColumns {
            breakers: vec![TokenSequence { tokens: vec![1, 2] }],
            ..Default::default()
        });
        let columns = ParamColumns { logprobs, dry, ..Default::default() };
        assert_eq!(list_bytes(&columns, 3), 3 * (40 + 24 + 8));
    }

    #[test]
    fn results_are_told_in_columns_and_the_rest_stays_with_the_rows() {
        let ok = |token, draws| RowResult {
            status: 1,
            token: Some(token),
            logprob: Some(-0.5),
            kept: 3,
            kept_mass: 4,
            seed: 5,
            draws,
            ..Default::default()
        };
        let draw = |token| Draw { token, logprob: -0.5 };
        let nan = RowResult { status: 2, seed: 6, ..Default::default() };
        let response = |rows| SampleResponse { rows, device: "cpu".into(), ..Default::default() };
        let one = pack(response(vec![ok(0, vec![]), nan.clone()]), &Draws(vec![]));
        let columns = one.columns.unwrap();
        assert_eq!((one.rows.len(), one.device.as_str()), (0, "cpu"));
        assert_eq!((&columns.tokens[..], &columns.statuses[..]), (&[0, -1][..], &[1, 2][..]));
        assert_eq!((&columns.seeds[..], &columns.kept[..]), (&[5, 6][..], &[3, 0][..]));
        assert!(columns.logprobs[0] == -0.5 && columns.logprobs[1].is_nan());
        assert!(columns.draw_tokens.is_empty());

        // A row that is wrong may ask for any number of draws.
        let violation = Some(Violation { field: "params.draws".into(), ..Default::default() });
        let wrong = RowResult { status: 5, violation, ..Default::default() };
        let told = RowResult {
            logprobs: vec![LogprobsResult::default()],
            ..ok(7, vec![draw(7), draw(8)])
        };
        let draws = [1, 2, u32::MAX, 2];
        let set = |draws| SamplingParams { draws: Some(draws), ..Default::default() };
        let messages = SampleRequest { params: draws.map(set).to_vec(), ..Default::default() };
        let columns = request(ParamColumns { draws: draws.to_vec(), ..Default::default() });
        let [draws, same] = [messages, columns].map(|request| Draws::of(&request));
        assert_eq!(draws.0, same.0);
        let several = pack(response(vec![ok(0, vec![]), nan, wrong, told]), &draws);
        assert_eq!(several.columns.unwrap().draw_tokens, [0, -1, -1, 7, 8]);
        let (first, last) = (several.rows[0].clone(), several.rows[3].clone());
        assert_eq!((first, last.logprobs.len(), last.token), (RowResult::default(), 1, None));
        assert!(several.rows[2].violation.is_some());
    }
}
