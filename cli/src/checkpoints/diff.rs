//! `medley checkpoints diff`: which tensors differ between two checkpoints. No byte of the states is read.

use super::tensors::{Differing, compare, listed};
use super::verify::of_id;
use crate::console::{Align, Table, print, print_json};
use anyhow::{Result, bail};
use medley_protocol::checkpoint::TensorHash;
use medley_protocol::client::Client;
use medley_protocol::ids::CheckpointId;

/// Arguments of `medley checkpoints diff`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A checkpoint's id: see `medley checkpoints list`.
    first: CheckpointId,
    /// Another one's, of any job.
    second: CheckpointId,
}

/// Runs the command.
///
/// # Errors
/// When a checkpoint is not kept or has no hashes of tensors, or the coordinator does not answer.
pub(super) async fn run(client: &Client, args: &Args, json: bool) -> Result<()> {
    let (first, second) = (tensors(client, args.first).await?, tensors(client, args.second).await?);
    let (differing, all) = compare(first, second)?;
    if json {
        return print_json(&differing);
    }
    if !differing.is_empty() {
        print(&table(&differing).plain())?;
    }
    print(&format!("{} of {all} tensors differ", differing.len()))
}

async fn tensors(client: &Client, id: CheckpointId) -> Result<Vec<TensorHash>> {
    match &of_id(client, id).await?[..] {
        [checkpoint] if checkpoint.id == id => listed(client, checkpoint).await,
        _ => bail!("{id} is a job: give the id of one of its checkpoints, see `medley checkpoints list {id}`"),
    }
}

fn table(differing: &[Differing]) -> Table {
    let columns = ["section", "tensor", "first", "second"].map(|name| (name, Align::Left));
    let mut table = Table::new(&columns);
    for one in differing {
        table.row(one.cells());
    }
    table
}
