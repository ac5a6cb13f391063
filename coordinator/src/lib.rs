//! The coordinator: job table, scheduling, REST and dashboard.
//!
//! Layers, from the leaves: [`domain`] (states and transitions) and [`plan`] (pure placement) know no IO; [`store`] is
//! the only place with SQL; [`reconcile`] decides and carries out; [`sweep`] deletes what
//! retention gave up, [`leftovers`] what killed writers leave; [`api`] answers agents and people, over connections that are bounded (`connections`); [`mod@serve`] puts
//! them together. [`postgres`] runs the database when the operator has none, [`tokens`] makes and checks credentials, and
//! [`test_database`] gives each test a database of its own.

pub mod api;
mod connections;
pub mod database;
pub mod domain;
pub mod leftovers;
pub mod objects;
pub mod plan;
pub mod postgres;
pub mod reconcile;
pub mod serve;
pub mod state_dir;
pub mod store;
pub mod sweep;
pub mod test_database;
pub mod token_command;
pub mod tokens;
pub mod with_postgres;
