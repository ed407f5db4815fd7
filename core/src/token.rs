//! Tokens: what people and programs show to say who they are, and what it lets them do.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

/// What a token lets its holder do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Look at runs and agents.
    Viewer,
    /// Also submit, stop and repeat runs, and take agents out of service and back.
    Submitter,
    /// Measure, under one name. Nothing else: an agent sees no runs.
    Agent,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 3] = [Self::Viewer, Self::Submitter, Self::Agent];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Agent => "agent",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let role = Self::ALL.into_iter().find(|role| role.as_str() == text);
        role.ok_or_else(|| "a role is agent, submitter or viewer".to_owned())
    }
}

/// Bytes of the part of a token that names it.
pub const ID_BYTES: usize = 8;

/// Bytes of the secret part of a token.
pub const SECRET_BYTES: usize = 32;

/// How every token begins: recognisable where one has been left lying about.
const PREFIX: &str = "rgt_";

/// The public part of a token: it may be listed and logged.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(String);

impl TokenId {
    /// As text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for TokenId {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        if is_hex(text, ID_BYTES) { Ok(Self(text.to_owned())) } else { Err(NotAToken::Form) }
    }
}

/// A token: `rgt_`, 16 hexadecimal digits that name it, `_`, 64 that are the secret. It can be neither printed nor
/// logged by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    text: String,
}

/// Why a text is no token. Says nothing of the text itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotAToken {
    /// Nothing is there.
    #[error("the token is empty")]
    Empty,
    /// Too short or too long.
    #[error("the token has {found} characters, a token has {}", PREFIX.len() + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES)]
    Length {
        /// How many it has.
        found: usize,
    },
    /// Of the right length, but no token.
    #[error("this is not a token: one begins with {PREFIX} and has only hexadecimal digits behind it")]
    Form,
}

impl Token {
    /// The token made of these random bytes.
    pub fn new(id: [u8; ID_BYTES], secret: [u8; SECRET_BYTES]) -> Self {
        let id = hex(&id);
        let text = format!("{PREFIX}{id}_{}", hex(&secret));
        Self { id: TokenId(id), text }
    }

    /// Its public part.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// What is stored in place of it. The secret has 256 random bits, so a fast hash is as good as a slow one.
    pub fn digest(&self) -> Digest {
        Digest::of(self.text.as_bytes())
    }

    /// The whole text, for the one who is to hold it, and for the wire.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}, secret not shown)", self.id)
    }
}

impl FromStr for Token {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        const LENGTH: usize = PREFIX.len() + 2 * ID_BYTES + 1 + 2 * SECRET_BYTES;
        match text.len() {
            0 => return Err(NotAToken::Empty),
            LENGTH => {}
            found => return Err(NotAToken::Length { found }),
        }
        let parts = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
        let (id, secret) = parts.ok_or(NotAToken::Form)?;
        if !is_hex(secret, SECRET_BYTES) {
            return Err(NotAToken::Form);
        }
        Ok(Self { id: id.parse()?, text: text.to_owned() })
    }
}

fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|c| c.is_ascii_digit() || (b'a'..=b'f').contains(&c))
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> Token {
        Token::new([0xab; ID_BYTES], [0x5c; SECRET_BYTES])
    }

    #[test]
    fn a_token_reads_back() {
        let token = token();
        let again: Token = token.expose().parse().unwrap();
        assert_eq!((&again, again.digest()), (&token, token.digest()));
        assert_eq!(token.id().as_str(), "abababababababab");
    }

    #[test]
    fn nothing_shows_the_secret() {
        assert!(!format!("{:?}", token()).contains("5c5c"));
        let mut longer = token().expose().to_owned();
        longer.push('5');
        for wrong in ["", "x", &longer, &token().expose().replace("5c", "5C"), &token().expose().replace("rgt", "abc")]
        {
            let message = wrong.parse::<Token>().unwrap_err().to_string();
            assert!(!message.to_lowercase().contains("5c5c"), "{message}");
        }
        assert_eq!(longer.parse::<Token>().unwrap_err(), NotAToken::Length { found: 86 });
    }

    #[test]
    fn tokens_that_differ_in_one_bit_have_other_digests() {
        let mut secret = [0x5c; SECRET_BYTES];
        secret[31] ^= 1;
        assert_ne!(Token::new([0xab; ID_BYTES], secret).digest(), token().digest());
    }
}
