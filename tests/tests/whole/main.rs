//! Tests over the whole of Medley, in one program: to link one of its size takes longer than to compile what is in it.

mod clocks;
mod coordinators;
mod database;
mod demo;
mod kill;
mod ledger;
mod network;
mod nodes;
mod numerics;
mod shards;
mod simulation;
mod store;
mod straggler;
mod weights;
