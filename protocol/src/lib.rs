//! What crosses a process border in Medley.
//!
//! Everything that two of Medley's processes say to each other, or that a user says to them, is a type of this
//! crate: [`ids`], the job [`spec`], what agents report and are told ([`agent`]), [`tasks`] leased to ranks,
//! [`metrics`] and the [`ledger`] of steps, [`checkpoint`] manifests, what becomes of them in [`doubt`], single
//! [`inference`]s, the [`staircase`] of speeds, when a rank is missed ([`vigil`]), the REST bodies ([`rest`]), the one table
//! of [`error`] codes, and what makes a [`text`] fit for people.
//!
//! There is no IO here, but for opening what others name, for all programs alike: a [`mod@file`], and with two features more, the
//! object store of a URL in [`store`], and a coordinator by a typed HTTP client in [`client`].

pub mod agent;
pub mod checkpoint;
#[cfg(feature = "client")]
pub mod client;
pub mod doubt;
pub mod error;
pub mod estimate;
pub mod file;
pub mod hardware;
pub mod ids;
pub mod inference;
pub mod ledger;
pub mod metrics;
pub mod rest;
pub mod spec;
pub mod stage;
pub mod staircase;
#[cfg(feature = "store")]
pub mod store;
pub mod tasks;
pub mod text;
pub mod vigil;
