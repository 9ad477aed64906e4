//! Bearer tokens: who may sample, and how much of the queue one of them may fill.

use super::budget::{Budget, Held};
use super::error::Error;
use crate::engine::{GroupId, Priority};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use subtle::ConstantTimeEq;

/// The longest token. All are compared at this length, so that the time tells nothing.
pub const TOKEN_BYTES_MAX: usize = logitd_proto::shm::TOKEN_BYTES_MAX;

/// The tokens of a server.
#[derive(Debug)]
pub struct Tokens(Vec<Arc<Token>>);

/// One token. Shown by its name only. Clones are the same token.
#[derive(Clone)]
pub struct Token {
    name: String,
    secret: Secret,
    group: GroupId,
    /// The highest that its requests may ask for.
    priority_max: Priority,
    rows: Arc<Budget>,
    /// Bytes of its requests.
    pub bytes: Arc<Budget>,
    /// It is not in the file any more.
    gone: Arc<AtomicBool>,
}

/// What one token may hold.
#[derive(Clone, Copy, Debug)]
pub struct TokenLimits {
    /// Rows of its requests.
    pub rows_max: usize,
    /// Their bytes.
    pub bytes_max: usize,
}

/// Padded with zeros, and its length.
type Secret = ([u8; TOKEN_BYTES_MAX], u64);

impl Tokens {
    /// Reads a file: a token a line, then a name if it has one, then `priority=low`, `normal` or `high`,
    /// the highest priority that its requests may ask for (normal unless given). Empty lines and lines
    /// that begin with `#` are skipped.
    pub fn read(path: &Path, limits: TokenLimits) -> Result<Self, String> {
        let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
        Self::parse(&text, limits).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn parse(text: &str, limits: TokenLimits) -> Result<Self, String> {
        let mut tokens: Vec<Arc<Token>> = Vec::new();
        let mut seen = HashSet::new();
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            let (token, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
            let (name, priority_max) =
                name_and_priority(rest).map_err(|error| format!("line {number}: {error}"))?;
            let name = if name.is_empty() { format!("line {number}") } else { name };
            let secret = secret(token.as_bytes()).ok_or_else(|| {
                format!(
                    "line {number}: a token has {} bytes; allowed: up to {TOKEN_BYTES_MAX}",
                    token.len()
                )
            })?;
            if !seen.insert(token) {
                return Err(format!("line {number}: the same token again"));
            }
            let group = GroupId::of(token);
            tokens.push(Arc::new(Token::new(name, secret, group, priority_max, limits)));
        }
        if tokens.is_empty() {
            return Err("no token in it, so nobody could come in".into());
        }
        Ok(Self(tokens))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// These tokens from now on, in the place of `old` ones. A token that stays keeps what it holds; one that does
    /// not is refused from now on, wherever it is held.
    pub fn in_place_of(&self, old: &Self) -> Self {
        let same = |token: &Token, other: &&Arc<Token>| other.secret == token.secret;
        let stays = |token: &Arc<Token>| match old.0.iter().find(|other| same(token, other)) {
            Some(before) => Arc::new(Token {
                name: token.name.clone(),
                priority_max: token.priority_max,
                ..Token::clone(before)
            }),
            None => Arc::clone(token),
        };
        for gone in old.0.iter().filter(|token| !self.0.iter().any(|other| same(token, &other))) {
            gone.gone.store(true, Ordering::Relaxed);
        }
        Self(self.0.iter().map(stays).collect())
    }

    /// Whose call this is.
    pub fn check(&self, headers: &HeaderMap) -> Result<Arc<Token>, Error> {
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let header = given.next().ok_or(Error::Unauthenticated("no token was sent"))?;
        if given.next().is_some() {
            let text = "several authorization headers were sent; send one";
            return Err(Error::Unauthenticated(text));
        }
        let given = header
            .as_bytes()
            .split_at_checked("Bearer ".len())
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(b"Bearer "))
            .ok_or(Error::Unauthenticated("the authorization is not a bearer token"))?
            .1;
        self.find(given)
    }

    /// Whose token this is.
    pub fn find(&self, given: &[u8]) -> Result<Arc<Token>, Error> {
        let unknown = Error::Unauthenticated("the token is not known");
        let given = secret(given).ok_or(unknown.clone())?;
        // Every token is looked at, whichever matches.
        let matching = self.0.iter().fold(None, |found, token| {
            let same = token.secret.0.ct_eq(&given.0) & token.secret.1.ct_eq(&given.1);
            if bool::from(same) { Some(token) } else { found }
        });
        matching.cloned().ok_or(unknown)
    }
}

impl Token {
    fn new(
        name: String,
        secret: Secret,
        group: GroupId,
        priority_max: Priority,
        limits: TokenLimits,
    ) -> Self {
        let who = format!("token {name}");
        let what = "rows waiting or being sampled";
        let rows = Budget::new(who.clone(), what, "token_rows_max", limits.rows_max);
        let what = "bytes of requests";
        let bytes = Budget::new(who, what, "token_bytes_max", limits.bytes_max);
        Self { name, secret, group, priority_max, rows, bytes, gone: Arc::default() }
    }

    /// For logs.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The priority of a request that asks for this one, or for none.
    pub fn priority(&self, asked: Option<Priority>) -> Result<Priority, Error> {
        let asked = asked.unwrap_or(self.priority_max.min(Priority::Normal));
        if asked > self.priority_max {
            let (token, most) = (self.name.clone(), self.priority_max);
            return Err(Error::PriorityDenied { token, asked, most });
        }
        Ok(asked)
    }

    /// Whose requests its are, where turns are taken.
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// Room for this many rows, at once or not at all.
    pub fn reserve(&self, rows: usize) -> Result<Held, Error> {
        if self.gone.load(Ordering::Relaxed) {
            return Err(Error::Unauthenticated("the token is not known any more"));
        }
        self.rows.take(rows)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("name", &self.name).finish_non_exhaustive()
    }
}

/// What stands behind a token: words of its name, and settings.
fn name_and_priority(text: &str) -> Result<(String, Priority), String> {
    let (settings, words): (Vec<&str>, Vec<&str>) =
        text.split_whitespace().partition(|word| word.contains('='));
    let mut priority = Priority::Normal;
    for setting in settings {
        priority = match setting {
            "priority=low" => Priority::Low,
            "priority=normal" => Priority::Normal,
            "priority=high" => Priority::High,
            _ => {
                return Err(format!(
                    "{setting:?} is not a setting of a token; allowed: priority=low, priority=normal, priority=high"
                ));
            }
        };
    }
    Ok((words.join(" "), priority))
}

fn secret(token: &[u8]) -> Option<Secret> {
    let mut padded = [0; TOKEN_BYTES_MAX];
    padded.get_mut(..token.len())?.copy_from_slice(token);
    Some((padded, token.len() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: TokenLimits = TokenLimits { rows_max: 4, bytes_max: 100 };

    fn headers(authorization: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, authorization.parse().unwrap())])
    }

    #[test]
    fn a_token_is_known_by_all_of_its_bytes() {
        let tokens = Tokens::parse("# ours\nalpha  Ann\n\nbeta\n", LIMITS).unwrap();
        assert_eq!(tokens.check(&headers("Bearer alpha")).unwrap().name(), "Ann");
        assert_eq!(tokens.check(&headers("bearer beta")).unwrap().name(), "line 4");
        for wrong in
            ["Bearer alph", "Bearer alphaa", "Bearer ", "alpha", "Basic alpha", "Bearer Ann"]
        {
            let error = tokens.check(&headers(wrong)).unwrap_err();
            assert!(matches!(error, Error::Unauthenticated(_)), "{wrong}");
        }
        assert!(tokens.check(&headers(&format!("Bearer {}", "a".repeat(300)))).is_err());
        assert!(tokens.check(&HeaderMap::new()).is_err());
    }

    #[test]
    fn one_token_is_asked_for_and_no_more() {
        let tokens = Tokens::parse("alpha", LIMITS).unwrap();
        let mut twice = headers("Bearer alpha");
        twice.append(AUTHORIZATION, "Bearer alpha".parse().unwrap());
        let error = tokens.check(&twice).unwrap_err();
        assert!(error.to_string().contains("several"), "{error}");
    }

    #[test]
    fn tokens_that_are_read_again_keep_their_rows_or_are_gone() {
        let old = Tokens::parse("alpha Ann\nbeta Bob\n", LIMITS).unwrap();
        let (ann, bob) = (old.find(b"alpha").unwrap(), old.find(b"beta").unwrap());
        let _held = ann.reserve(3).unwrap();
        let new = Tokens::parse("gamma\nalpha Anna\n", LIMITS).unwrap().in_place_of(&old);
        let anna = new.find(b"alpha").unwrap();
        assert_eq!(anna.name(), "Anna");
        assert!(matches!(anna.reserve(2), Err(Error::Full { held: 3, .. })));
        assert!(new.find(b"gamma").unwrap().reserve(4).is_ok());
        assert!(new.find(b"beta").is_err());
        assert!(matches!(bob.reserve(1), Err(Error::Unauthenticated(_))), "held by a call");
        let last = Tokens::parse("gamma", LIMITS).unwrap().in_place_of(&new);
        assert!(matches!(ann.reserve(1), Err(Error::Unauthenticated(_))), "under its old name too");
        assert!(last.find(b"gamma").is_ok());
    }

    #[test]
    fn a_token_holds_no_more_rows_than_it_may() {
        let tokens = Tokens::parse("alpha", LIMITS).unwrap();
        let token = tokens.check(&headers("Bearer alpha")).unwrap();
        let held = token.reserve(3).unwrap();
        assert!(matches!(token.reserve(2), Err(Error::Full { held: 3, asked: 2, limit: 4, .. })));
        assert!(matches!(token.reserve(5), Err(Error::OverLimit { value: 5, limit: 4, .. })));
        drop(held);
        assert!(token.reserve(4).is_ok());
    }

    #[test]
    fn a_token_asks_for_no_higher_a_priority_than_it_may() {
        use Priority::{High, Low, Normal};
        let text = "a batch jobs priority=low\nb chat\nc  priority=high  admin\n";
        let tokens = Tokens::parse(text, LIMITS).unwrap();
        let token = |given: &str| tokens.find(given.as_bytes()).unwrap();
        assert_eq!((token("a").name(), token("c").name()), ("batch jobs", "admin"));
        for (given, most, unasked) in [("a", Low, Low), ("b", Normal, Normal), ("c", High, Normal)]
        {
            assert_eq!(token(given).priority(None), Ok(unasked));
            for asked in [Low, Normal, High] {
                let answer = token(given).priority(Some(asked));
                assert_eq!(answer.is_ok(), asked <= most, "{given} {asked}");
            }
        }
        let denied = token("b").priority(Some(High)).unwrap_err().to_string();
        assert!(denied.contains("priority=high") && denied.contains("chat"), "{denied}");
        for wrong in ["a b priority=highest", "a rows=7", "a priority="] {
            let error = Tokens::parse(wrong, LIMITS).unwrap_err();
            assert!(error.contains("line 1") && error.contains("priority=low"), "{error}");
        }
    }

    #[test]
    fn a_file_without_a_usable_token_is_refused() {
        assert!(Tokens::parse("# none\n", LIMITS).is_err());
        assert!(Tokens::parse("a\na b", LIMITS).is_err());
        assert!(Tokens::parse(&"a".repeat(257), LIMITS).is_err());
        let shown = format!("{:?}", Tokens::parse("hunter2 Bob", LIMITS).unwrap());
        assert!(shown.contains("Bob") && !shown.contains("hunter2"), "{shown}");
    }
}
