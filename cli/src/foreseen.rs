//! What the ranks of a job are foreseen to take, as a table.

use crate::console::{Align, Table, bytes};
use medley_protocol::estimate::Estimate;

/// Memory of a rank of each kind of stage that trains; nothing if there are no estimates.
pub(crate) fn memory<'a>(estimates: impl IntoIterator<Item = &'a Estimate>) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("stage", Left),
        ("lanes", Right),
        ("on a gpu", Right),
        ("and its machine", Right),
        ("on a processor", Right),
    ]);
    for estimate in estimates {
        table.row([
            estimate.stage.name().to_owned(),
            estimate.lanes.to_string(),
            bytes(estimate.gpu_bytes),
            bytes(estimate.gpu_host_bytes),
            estimate.host_bytes.map_or_else(|| "not in bf16".into(), bytes),
        ]);
    }
    if table.is_empty() {
        return String::new();
    }
    format!("memory of a rank, about:\n{}", table.plain())
}
