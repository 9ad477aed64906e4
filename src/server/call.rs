//! A call: who makes it, until when its answer is wanted, and what it may hold.

use super::account::Account;
use super::auth::Token;
use super::budget::Held;
use super::error::Error;
use super::frames::Admissions;
use crate::engine::Source;
use crate::plane::Peer;
use std::sync::Arc;
use std::time::Instant;

/// What is known of a call besides its messages.
#[derive(Clone, Debug)]
pub struct Call {
    /// After this moment nobody wants an answer.
    pub deadline: Option<Instant>,
    /// Whose it is, where tokens are asked for.
    pub token: Option<Arc<Token>>,
    /// Which process it comes from, where it came over a Unix socket.
    pub peer: Option<Peer>,
    /// What the connection it comes over holds.
    pub account: Arc<Account>,
    /// The permits of its messages.
    pub admissions: Admissions,
}

impl Call {
    /// Who takes turns with others for its work.
    pub fn source(&self) -> Source {
        let source = self.account.source;
        let group = self.token.as_ref().map_or(source.group, |token| token.group());
        Source { group, ..source }
    }

    /// Takes room for so many bytes beside the message, of the connection and of the token, until it is dropped.
    pub fn hold(&self, bytes: usize) -> Result<Vec<Held>, Error> {
        let budgets = [Some(&self.account.bytes), self.token.as_ref().map(|token| &token.bytes)];
        budgets.into_iter().flatten().map(|budget| budget.take(bytes)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::GroupId;
    use crate::server::auth::{TokenLimits, Tokens};
    use crate::server::line::Lane;
    use logitd_proto::Limits;

    #[test]
    fn calls_of_a_token_take_turns_as_one_over_any_number_of_connections() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("tokens");
        std::fs::write(&path, "alpha\nbeta\n").unwrap();
        let limits = TokenLimits { rows_max: 4, bytes_max: 100 };
        let tokens = Tokens::read(&path, limits).unwrap();
        let address = GroupId::of("one address");
        let source = |token: Option<&[u8]>| {
            let call = Call {
                deadline: None,
                token: token.map(|token| tokens.find(token).unwrap()),
                peer: None,
                account: Account::open(address, &Limits::default(), Lane::nowhere()),
                admissions: Admissions::default(),
            };
            call.source()
        };
        let [one, same, other] =
            [&b"alpha"[..], b"alpha", b"beta"].map(|token| source(Some(token)));
        assert_eq!(one.group, same.group);
        assert_ne!(one.connection, same.connection);
        assert_ne!(one.group, other.group);
        assert_eq!(source(None).group, address);
        assert_ne!(one.group, address);
    }
}
