//! The real rows and the vocabulary that the program carries: `assets/` in the source, where a
//! README says what they are and where they come from. Unpacked when first asked for.

use super::digests::Digests;
use logitd_core::batch::Dtype;
use serde::Deserialize;
use std::sync::OnceLock;
use zlib_rs::{InflateConfig, ReturnCode};

/// How the carried rows are stored.
pub const DTYPE: Dtype = Dtype::F16;
/// Tokens in each of the carried rows.
pub const VOCAB_SIZE: u32 = 262_144;

/// The logits that a language model gave for the token after some text.
#[derive(Clone, Debug)]
pub struct RealRow {
    /// The kind of text: `en`, `fr`, `zh`, `ar`, `math` or `code`.
    pub kind: String,
    /// The text before the token.
    pub context: String,
    /// [`VOCAB_SIZE`] little-endian f16 values.
    pub logits: Vec<u8>,
}

/// The carried rows: a handful, of different kinds and entropies.
pub fn rows() -> &'static [RealRow] {
    static ROWS: OnceLock<Vec<RealRow>> = OnceLock::new();
    ROWS.get_or_init(unpack_rows)
}

/// Positions of running text, of several kinds, each with the token that came next: what remains of 64 rows.
pub fn digests() -> Digests {
    let file = include_bytes!("../../assets/positions.digests");
    Digests::read(&file[..]).expect("a file of digests was packed")
}

/// The text of every token of the carried rows.
pub fn tokens() -> &'static TokenTexts {
    static TOKENS: OnceLock<TokenTexts> = OnceLock::new();
    TOKENS.get_or_init(|| {
        let json = decompress(include_bytes!("../../assets/tokens.json.gz"));
        TokenTexts::from_json(&json).expect("a list of texts was packed")
    })
}

/// The text of tokens, by id.
#[derive(Clone, Debug)]
pub struct TokenTexts(Vec<Box<str>>);

impl TokenTexts {
    /// Reads a JSON array of strings: the text of token 0, of token 1, and so on. A byte-order mark, which some
    /// editors write, may stand before it.
    pub fn from_json(json: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(json.strip_prefix(b"\xef\xbb\xbf").unwrap_or(json)).map(Self)
    }

    /// The text of a token, if it is known.
    pub fn get(&self, token: u32) -> Option<&str> {
        self.0.get(token as usize).map(|text| &**text)
    }

    /// How many tokens have a text.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether no token has a text.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// `rows.json`.
#[derive(Deserialize)]
struct About {
    vocab_size: u32,
    rows: Vec<AboutRow>,
}

#[derive(Deserialize)]
struct AboutRow {
    kind: String,
    context: String,
}

fn unpack_rows() -> Vec<RealRow> {
    let about: About = serde_json::from_str(include_str!("../../assets/rows.json"))
        .expect("rows.json was packed with the rows");
    assert_eq!(about.vocab_size, VOCAB_SIZE, "assets/rows.json");
    let planes = decompress(include_bytes!("../../assets/rows.gz"));
    let packed = planes.chunks_exact(VOCAB_SIZE as usize * DTYPE.size_bytes());
    assert_eq!(packed.len(), about.rows.len(), "assets/rows.gz");
    let row = |(about, packed): (AboutRow, &[u8])| RealRow {
        kind: about.kind,
        context: about.context,
        logits: interleave(packed),
    };
    about.rows.into_iter().zip(packed).map(row).collect()
}

/// All upper bytes, then all lower ones, to little-endian values.
fn interleave(packed: &[u8]) -> Vec<u8> {
    let (upper, lower) = packed.split_at(packed.len() / 2);
    lower.iter().zip(upper).flat_map(|(&low, &high)| [low, high]).collect()
}

/// Unpacks a gzip file, which ends with the size of what is in it.
fn decompress(packed: &[u8]) -> Vec<u8> {
    let size = packed.last_chunk().expect("carried files are gzip files");
    let size = u32::from_le_bytes(*size) as usize;
    let mut bytes = vec![0; size];
    let gzip = InflateConfig { window_bits: 16 + 15 };
    let (whole, code) = zlib_rs::decompress_slice(&mut bytes, packed, gzip);
    assert_eq!((whole.len(), code), (size, ReturnCode::Ok), "carried files are whole");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use logitd_core::backend::{Backend, reference::Reference};
    use logitd_core::batch::{Results, Row, RowStatus};
    use logitd_core::params::ParamsSpec;

    #[test]
    fn the_likeliest_tokens_read_as_language() {
        let greedy = ParamsSpec { temperature: 0.0, ..Default::default() }.parse(|| 0).unwrap();
        let batch: Vec<_> =
            rows().iter().map(|row| Row::new(DTYPE, &row.logits, greedy).unwrap()).collect();
        let mut results = Results::default();
        Reference::default().sample(&batch, &mut results).unwrap();
        let texts: Vec<_> = results
            .iter()
            .map(|result| {
                assert_eq!(result.outcome.status, RowStatus::Ok);
                tokens().get(result.draws[0].token).unwrap()
            })
            .collect();
        assert_eq!(
            texts,
            [" like", " progress", " mis", "机器人", " وت", " =", " orders", "discord"]
        );
    }

    #[test]
    fn every_token_has_a_text() {
        assert_eq!(tokens().len(), VOCAB_SIZE as usize);
        assert_eq!(tokens().get(VOCAB_SIZE), None);
    }
}
