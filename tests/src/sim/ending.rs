//! What must hold at the end: every task is done, with the result that it always has, every shard is merged once, every
//! stage that trains has its last checkpoint, and all metrics are those of the states that were committed.

use super::leases::TaskState;
use super::table::Table;
use super::toy::Toy;
use super::witness::Witness;
use medley_protocol::tasks::{TaskOutput, TaskWork};
use std::collections::BTreeSet;

impl Witness<'_> {
    /// The job has succeeded: whether all is there, once.
    pub(super) fn finally(&mut self, table: &Table) {
        for task in &table.tasks {
            let TaskState::Done(output) = &task.state else {
                self.accuse(format!("the job succeeded without {:?}", task.work));
                continue;
            };
            self.result(table, &task.work, output);
        }
        for stage in table.job.stages.iter().filter(|stage| !stage.has_last_checkpoint()) {
            if stage.kind.is_training() {
                self.accuse(format!("{} is done without its last checkpoint", stage.name));
            }
        }
        for ((stage, step), row) in &table.metrics {
            let name = table.stage_name(*stage);
            let state = self.record.states.get(&(name.clone(), step + 1)).copied();
            if state.map(Toy::metrics) != Some(*row) {
                self.accuse(format!("{name}: the metrics of step {step} are those of another state"));
            }
        }
    }

    fn result(&mut self, table: &Table, work: &TaskWork, output: &TaskOutput) {
        if let TaskWork::IndexMerge { shards } | TaskWork::CapfiltMerge { overlays: shards } = work {
            let named: BTreeSet<&str> = shards.iter().map(|part| part.shard.file.as_str()).collect();
            let is_index = matches!(work, TaskWork::IndexMerge { .. });
            let is_shard = |task: &TaskWork| match task {
                TaskWork::IndexShard { .. } => is_index,
                TaskWork::CapfiltShard { .. } => !is_index,
                _ => false,
            };
            let all = table.tasks.iter().filter(|task| is_shard(&task.work)).count();
            if (shards.len(), named.len()) != (all, all) {
                self.accuse(format!("{} shards are merged of {all}", shards.len()));
            }
        }
        let key = match output {
            TaskOutput::Shard { object, .. } | TaskOutput::Dataset { dataset: object, .. } => object.key.clone(),
            TaskOutput::Evaluation { details, .. } => details.key.clone(),
        };
        let name = format!("{work:?}");
        let right = self
            .reference
            .is_none_or(|reference| reference.results.get(&name) == Some(&key));
        if !right || self.record.results.insert(name.clone(), key).is_some() {
            self.accuse(format!("the result of {name} is not that of an undisturbed run"));
        }
    }
}
