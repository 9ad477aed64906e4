//! Columns of the API: the parameters of many rows, a list each, as the messages that they stand for; and results as
//! columns.

use logitd_proto::{ParamColumns, ResultColumns, RowResult, RowStatus, SampleRequest, WrongColumn};
use logitd_proto::{SampleResponse, SamplingParams};

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

/// Columns that a request came with. What is found wrong in the messages that they stand for is named by them.
#[derive(Clone, Debug)]
pub struct Given(ParamColumns);

/// How many parameter sets the columns of a request stand for, if it has any.
pub fn sets(request: &SampleRequest) -> Result<Option<usize>, ColumnsError> {
    let Some(columns) = &request.columns else { return Ok(None) };
    let wrong = |field: String, description| Err(ColumnsError { field, description });
    if !request.params.is_empty() {
        let text = "columns stand beside params; allowed: one or the other";
        return wrong("columns".into(), text.into());
    }
    match columns.sets() {
        Ok(sets) => Ok(Some(sets)),
        Err(WrongColumn { name, length, rows }) => wrong(
            format!("columns.{name}"),
            format!(
                "{name} has {length} values for {rows} rows; allowed: none, 1 for all, or one a row"
            ),
        ),
    }
}

/// Bytes of the lists that each of so many sets has of its own once they are messages.
pub fn list_bytes(columns: &ParamColumns, sets: usize) -> usize {
    const SEQUENCE_BYTES: usize = size_of::<Vec<u32>>();
    let logprobs = columns.logprobs.as_ref().map_or(0, |asked| asked.of.len() + asked.ids.len());
    let breakers = columns.dry.iter().flat_map(|dry| &dry.breakers);
    let breakers: usize = breakers.map(|one| SEQUENCE_BYTES + one.tokens.len() * 4).sum();
    (logprobs * 4 + breakers).saturating_mul(sets)
}

/// Puts so many messages in the place of the columns.
pub fn unpack(request: &mut SampleRequest, sets: usize) -> Option<Given> {
    let columns = request.columns.take()?;
    request.params = (0..sets).map(|set| columns.set(set)).collect();
    Some(Given(columns))
}

impl Given {
    /// A path in the parameter messages as one in the columns: `columns.top_p[3]` of `params[3].top_p`. Others stay as they
    /// are.
    pub fn path(&self, path: &str) -> String {
        if path == "params" {
            return "columns".into();
        }
        let Some((row, name)) = path.strip_prefix("params[").and_then(|rest| rest.split_once("]."))
        else {
            return path.into();
        };
        let has_rows = !name.starts_with("logprobs") && !name.starts_with("dry.breakers");
        match row.parse::<usize>() {
            Ok(_) if !has_rows => format!("columns.{name}"),
            Ok(_) if self.0.is_for_all(name) => format!("columns.{name}[0]"),
            Ok(row) => format!("columns.{name}[{row}]"),
            Err(_) => path.into(),
        }
    }

    /// Whether such a path is that of something for all rows.
    pub fn is_for_all(&self, path: &str) -> bool {
        let name = path.strip_prefix("columns.").unwrap_or(path);
        let name = name.split('[').next().unwrap_or(name);
        self.0.is_for_all(name)
    }
}

/// How many draws each row asks for.
#[derive(Clone, Debug)]
pub struct Draws(Vec<u32>);

impl Draws {
    /// By what a request says: nothing, one for all, or one a row.
    pub fn of(params: &[SamplingParams]) -> Self {
        Self(params.iter().map(|params| params.draws.unwrap_or(1)).collect())
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
    let is_told = |row: &RowResult| *row != RowResult::default();
    let rows: Vec<RowResult> = rows.into_iter().map(beside_columns).collect();
    let rows = if rows.iter().any(is_told) { rows } else { vec![] };
    SampleResponse { rows, columns: Some(columns), ..response }
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
    use logitd_proto::{Draw, DryColumns, Logprobs, LogprobsResult, TokenSequence, Violation};

    fn request(columns: ParamColumns) -> SampleRequest {
        SampleRequest { columns: Some(columns), ..Default::default() }
    }

    #[test]
    fn columns_become_the_messages_that_they_stand_for() {
        let columns =
            ParamColumns { top_k: vec![5, 6, 7], temperature: vec![0.5], ..Default::default() };
        let mut request = request(columns);
        let sets = sets(&request).unwrap().unwrap();
        let given = unpack(&mut request, sets).unwrap();
        let set = |top_k| SamplingParams { temperature: Some(0.5), top_k, ..Default::default() };
        assert_eq!((request.params, request.columns), (vec![set(5), set(6), set(7)], None));
        for (path, expected) in [
            ("params[2].top_k", "columns.top_k[2]"),
            ("params[2].temperature", "columns.temperature[0]"),
            ("params[2].logprobs.ids[5]", "columns.logprobs.ids[5]"),
            ("params[2].dry.breakers[1]", "columns.dry.breakers[1]"),
            ("params", "columns"),
            ("adjustments[1].counts", "adjustments[1].counts"),
        ] {
            assert_eq!(given.path(path), expected);
        }
        assert!(
            given.is_for_all("columns.temperature[0]") && !given.is_for_all("columns.top_k[2]")
        );
    }

    #[test]
    fn columns_that_cannot_be_are_named() {
        let error = |request: &SampleRequest| sets(request).unwrap_err();
        let two = ParamColumns { top_k: vec![5, 6, 7], draws: vec![1, 2], ..Default::default() };
        assert_eq!(error(&request(two)).field, "columns.draws");
        let beside = SampleRequest {
            params: vec![SamplingParams::default()],
            ..request(ParamColumns::default())
        };
        assert_eq!(error(&beside).field, "columns");
        assert_eq!(sets(&SampleRequest::default()), Ok(None));
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
        let one = pack(response(vec![ok(0, vec![]), nan.clone()]), &Draws::of(&[]));
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
        let params = [1, 2, u32::MAX, 2]
            .map(|draws| SamplingParams { draws: Some(draws), ..Default::default() });
        let several = pack(response(vec![ok(0, vec![]), nan, wrong, told]), &Draws::of(&params));
        assert_eq!(several.columns.unwrap().draw_tokens, [0, -1, -1, 7, 8]);
        let (first, last) = (several.rows[0].clone(), several.rows[3].clone());
        assert_eq!((first, last.logprobs.len(), last.token), (RowResult::default(), 1, None));
        assert!(several.rows[2].violation.is_some());
    }
}
