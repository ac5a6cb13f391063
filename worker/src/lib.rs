//! What runs on a node: the [`agent`] that talks to the coordinator, and the ranks that compute.
//!
//! A rank is a process of its own ([`supervise`] starts it and listens to it); [`stage`] is what it works on. [`local`] runs a
//! training without a cluster, [`replay`] single steps on given tensors; [`infer`] captions and matches single images;
//! [`weights`] are brought in and out. [`listen`] is where others reach a node, and [`print`](mod@print) how commands speak to people.

pub mod agent;
pub mod checkpoint;
pub mod collective;
pub mod doctor;
pub mod infer;
pub mod listen;
pub mod local;
pub mod objects;
pub mod print;
pub mod rank;
pub mod replay;
pub mod stage;
pub mod supervise;
pub mod weights;
