//! Bearer tokens: 256 random bits with a prefix that says what they are for.
//!
//! A token is shown once, when it is made. The database keeps its [`struct@Hash`]; because a token is random, a plain digest
//! is enough, and looking it up by digest tells an attacker nothing by its timing. `Debug` never shows a token.

pub mod files;

use std::fmt;

/// What a token allows. Every role but [`Role::Node`] includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum, sqlx::Type)]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Role {
    /// Reads everything but tokens.
    Viewer,
    /// Also submits and cancels jobs.
    Submitter,
    /// Also asks for checkpoints and drains nodes.
    Operator,
    /// Also makes tokens.
    Admin,
    /// Is an agent: may do what agents do, and nothing else.
    Node,
}

impl Role {
    /// The name used in tokens, storage and messages.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Submitter => "submitter",
            Self::Operator => "operator",
            Self::Admin => "admin",
            Self::Node => "node",
        }
    }

    /// Whether a holder of this role may do what needs `needed`.
    pub const fn includes(self, needed: Self) -> bool {
        match (self, needed) {
            (Self::Node, Self::Node) => true,
            (Self::Node, _) | (_, Self::Node) => false,
            _ => self as u8 >= needed as u8,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who made a request.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Holder {
    /// What the token allows.
    pub role: Role,
    /// Who or what holds it.
    pub name: String,
}

/// Digest of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(pub [u8; 32]);

/// A token as it is sent.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token that somebody chose himself must have this length at least.
    pub const MIN_BYTES: usize = 32;

    /// A new token for a role.
    pub fn generate(role: Role) -> Self {
        // A digest of random bytes is as random as they are, and prints as hexadecimal.
        let random = blake3::hash(&rand::random::<[u8; 32]>());
        Self(format!("medley_{role}_{}", random.to_hex()))
    }

    /// A token that somebody sent, or a file holds.
    pub fn received(text: &str) -> Self {
        Self(text.trim().to_owned())
    }

    /// What the database knows of it.
    pub fn hash(&self) -> Hash {
        Hash(*blake3::hash(self.0.as_bytes()).as_bytes())
    }

    /// The token itself, for its holder alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEOPLE: [Role; 4] = [Role::Viewer, Role::Submitter, Role::Operator, Role::Admin];

    #[test]
    fn roles_of_people_include_those_before_them() {
        for (i, role) in PEOPLE.into_iter().enumerate() {
            for (j, needed) in PEOPLE.into_iter().enumerate() {
                assert_eq!(role.includes(needed), j <= i, "{role} for {needed}");
            }
        }
    }

    #[test]
    fn nodes_and_people_cannot_stand_in_for_each_other() {
        assert!(Role::Node.includes(Role::Node));
        for role in PEOPLE {
            assert!(!Role::Node.includes(role) && !role.includes(Role::Node), "{role}");
        }
    }

    #[test]
    fn tokens_differ_say_their_role_and_do_not_show_themselves() {
        let (one, two) = (Token::generate(Role::Admin), Token::generate(Role::Admin));
        assert_ne!(one, two);
        assert!(one.reveal().starts_with("medley_admin_"), "{}", one.reveal());
        assert_eq!(one.reveal().len(), "medley_admin_".len() + 64);
        assert!(!format!("{one:?}").contains(&one.reveal()[13..]));
        assert_eq!(Token::received(&format!("{}\n", one.reveal())).hash(), one.hash());
    }
}
