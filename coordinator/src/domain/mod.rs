//! Jobs, stages and what may become of them.
//!
//! A [`Job`] is one aggregate: its spec, its [`stage::Stage`]s in topological order and the dataset versions they made.
//! States are enums whose variants own what is true only then; a transition consumes its stage or job and gives the next
//! one or [`InvalidTransition`]. Nothing here knows of time, SQL or sockets; ids and secrets come from a [`Mint`].

pub mod course;
pub mod decision;
pub mod event;
pub mod graph;
pub mod inputs;
pub mod job;
pub mod made;
pub mod node;
pub mod retention;
pub mod stage;

pub use event::Event;
pub use job::Job;
pub use stage::Stage;

use uuid::Uuid;

/// A transition that the present state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {from} and cannot become {to}")]
pub struct InvalidTransition {
    /// Which job or stage.
    pub what: String,
    /// Its state.
    pub from: &'static str,
    /// The state asked for.
    pub to: &'static str,
}

/// Where new ids and secrets come from.
pub trait Mint {
    /// A fresh id.
    fn uuid(&mut self) -> Uuid;
    /// A secret that cannot be guessed.
    fn secret(&mut self) -> String;
}

/// Ids by time, secrets from the system's random numbers.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemMint;

impl Mint for SystemMint {
    fn uuid(&mut self) -> Uuid {
        Uuid::now_v7()
    }

    fn secret(&mut self) -> String {
        blake3::hash(&rand::random::<[u8; 32]>()).to_hex().to_string()
    }
}

/// Ids and secrets that count up: the same in every run of a test or a simulation.
#[derive(Debug, Clone, Copy, Default)]
pub struct CountingMint(pub u128);

impl Mint for CountingMint {
    fn uuid(&mut self) -> Uuid {
        self.0 += 1;
        Uuid::from_u128(self.0)
    }

    fn secret(&mut self) -> String {
        self.0 += 1;
        format!("secret-{}", self.0)
    }
}
